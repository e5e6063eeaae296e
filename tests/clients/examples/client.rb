# Encrypts and decrypts over keyringd's socket, with the standard library only.

require "json"
require "net/http"
require "socket"

class Keyring
  def initialize(path, name = "keyring")
    @path = path
    @name = name
  end

  # `row` names where the ciphertext is stored. It opens with the same `row` only.
  def encrypt(plaintext, row)
    post("encrypt", plaintext: to_base64(plaintext), associated_data: to_base64(row)).fetch("ciphertext")
  end

  def decrypt(ciphertext, row)
    from_base64(post("decrypt", ciphertext: ciphertext, associated_data: to_base64(row)).fetch("plaintext"))
  end

  def encrypt_all(rows)
    batch("encrypt", rows.map { |row, text| { plaintext: to_base64(text), associated_data: to_base64(row) } })
      .map { |result| result.fetch("ciphertext") }
  end

  def decrypt_all(rows)
    batch("decrypt", rows.map { |row, sealed| { ciphertext: sealed, associated_data: to_base64(row) } })
      .map { |result| from_base64(result.fetch("plaintext")) }
  end

  private

  # One request for many values. Each item has a result of its own, or an error.
  def batch(operation, items)
    results = post(operation, batch_input: items).fetch("batch_results")
    items.zip(results) do |item, result|
      raise "#{from_base64(item[:associated_data])}: #{result["error"]}" if result["error"]
    end
    results
  end

  def post(operation, body)
    request = Net::HTTP::Post.new("/v1/transit/#{operation}/#{@name}", "Host" => "localhost")
    request.body = JSON.generate(body)
    answer = JSON.parse(exchange(request))
    answer["data"] or raise answer["errors"].join("; ")
  end

  # Net::HTTP opens TCP connections only, but its request and response work on any socket.
  def exchange(request)
    UNIXSocket.open(@path) do |socket|
      stream = Net::BufferedIO.new(socket, read_timeout: 10, write_timeout: 10)
      request.exec(stream, "1.1", request.path)
      response = Net::HTTPResponse.read_new(stream)
      response.reading_body(stream, true) { response.read_body }
      response.body
    end
  end

  def to_base64(text) = [text].pack("m0")

  def from_base64(text) = text.unpack1("m0").force_encoding("UTF-8")
end

keyring = Keyring.new(ENV.fetch("SOCKET"))

ciphertext = keyring.encrypt("4111 1111 1111 1111", "orders.card.7")
puts keyring.decrypt(ciphertext, "orders.card.7")
begin
  keyring.decrypt(ciphertext, "orders.card.8")
rescue RuntimeError => error
  puts error.message
end

emails = { "users.email.1" => "alice@example.org", "users.email.2" => "bob@example.org" }
sealed = keyring.encrypt_all(emails)
puts keyring.decrypt_all(emails.keys.zip(sealed)).join(" ")
