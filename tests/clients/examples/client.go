// Encrypts and decrypts over keyringd's socket, with the standard library only.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// encoding/json writes and reads []byte as base64, as the API wants it.
type item struct {
	Plaintext      []byte `json:"plaintext,omitempty"`
	Ciphertext     string `json:"ciphertext,omitempty"`
	AssociatedData []byte `json:"associated_data,omitempty"`
}

type result struct {
	Plaintext    []byte   `json:"plaintext"`
	Ciphertext   string   `json:"ciphertext"`
	Error        string   `json:"error"`
	BatchResults []result `json:"batch_results"`
}

type keyring struct {
	client *http.Client
	name   string
}

func newKeyring(socket, name string) *keyring {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	return &keyring{&http.Client{Transport: transport, Timeout: 10 * time.Second}, name}
}

func (k *keyring) post(operation string, body any) (*result, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	url := "http://localhost/v1/transit/" + operation + "/" + k.name
	response, err := k.client.Post(url, "application/json", bytes.NewReader(encoded))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var answer struct {
		Data   *result
		Errors []string
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Data == nil {
		return nil, errors.New(strings.Join(answer.Errors, "; "))
	}
	return answer.Data, nil
}

// The row names where the ciphertext is stored. It opens with the same row only.
func (k *keyring) encrypt(plaintext, row string) (string, error) {
	sealed, err := k.post("encrypt", item{Plaintext: []byte(plaintext), AssociatedData: []byte(row)})
	if err != nil {
		return "", err
	}
	return sealed.Ciphertext, nil
}

func (k *keyring) decrypt(ciphertext, row string) (string, error) {
	opened, err := k.post("decrypt", item{Ciphertext: ciphertext, AssociatedData: []byte(row)})
	if err != nil {
		return "", err
	}
	return string(opened.Plaintext), nil
}

// One request for many values. Each item has a result of its own, or an error.
func (k *keyring) batch(operation string, items []item) ([]result, error) {
	answer, err := k.post(operation, map[string]any{"batch_input": items})
	if err != nil {
		return nil, err
	}
	for at, one := range answer.BatchResults {
		if one.Error != "" {
			return nil, fmt.Errorf("%s: %s", items[at].AssociatedData, one.Error)
		}
	}
	return answer.BatchResults, nil
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func main() {
	k := newKeyring(os.Getenv("SOCKET"), "keyring")

	ciphertext := must(k.encrypt("4111 1111 1111 1111", "orders.card.7"))
	fmt.Println(must(k.decrypt(ciphertext, "orders.card.7")))
	if _, err := k.decrypt(ciphertext, "orders.card.8"); err != nil {
		fmt.Println(err)
	}

	rows := []string{"users.email.1", "users.email.2"}
	items := []item{
		{Plaintext: []byte("alice@example.org"), AssociatedData: []byte(rows[0])},
		{Plaintext: []byte("bob@example.org"), AssociatedData: []byte(rows[1])},
	}
	for at, one := range must(k.batch("encrypt", items)) {
		items[at] = item{Ciphertext: one.Ciphertext, AssociatedData: []byte(rows[at])}
	}
	opened := must(k.batch("decrypt", items))
	fmt.Printf("%s %s\n", opened[0].Plaintext, opened[1].Plaintext)
}
