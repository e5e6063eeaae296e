# Encrypts and decrypts over keyringd's socket, with curl and jq. Values go through pipes: arguments can be read by other users.
set -euo pipefail

# For jq: the data of an answer, or its error and the exit code 1.
answer='if .data then .data else "\(.errors[0])\n" | halt_error(1) end'

post() {
  curl -sS --unix-socket "$SOCKET" "http://localhost/v1/transit/$1/keyring" --data-binary @-
}

# encrypt ROW takes a text and prints its ciphertext, which opens with the same row only.
encrypt() {
  jq -Rs --arg row "$1" '{plaintext: @base64, associated_data: ($row | @base64)}' | post encrypt \
    | jq -r "$answer | .ciphertext"
}

# decrypt ROW takes a ciphertext and prints the text.
decrypt() {
  jq -R --arg row "$1" '{ciphertext: ., associated_data: ($row | @base64)}' | post decrypt \
    | jq -r "$answer | .plaintext | @base64d"
}

ciphertext=$(printf %s '4111 1111 1111 1111' | encrypt orders.card.7)
decrypt orders.card.7 <<< "$ciphertext"
decrypt orders.card.8 <<< "$ciphertext" 2>&1 || true

# One request for many values. Each item has a result of its own, or an error.
emails='[{"row": "users.email.1", "email": "alice@example.org"}, {"row": "users.email.2", "email": "bob@example.org"}]'
jq '{batch_input: map({plaintext: (.email | @base64), associated_data: (.row | @base64)})}' <<< "$emails" \
  | post encrypt > sealed.json
jq --argjson emails "$emails" '{batch_input: [$emails, .data.batch_results] | transpose
    | map({ciphertext: .[1].ciphertext, associated_data: (.[0].row | @base64)})}' sealed.json \
  | post decrypt | jq -r "$answer | .batch_results | map(.plaintext | @base64d) | join(\" \")"
