"""The same with hvac, Vault's client for Python, and requests-unixsocket."""

import base64
import os
import urllib.parse

import hvac
import requests_unixsocket

socket = urllib.parse.quote(os.environ["SOCKET"], safe="")
vault = hvac.Client(url=f"http+unix://{socket}", session=requests_unixsocket.Session())
transit = vault.secrets.transit


def to_base64(text):
    return base64.b64encode(text.encode()).decode()


def from_base64(text):
    return base64.b64decode(text).decode()


sealed = transit.encrypt_data(
    name="keyring", plaintext=to_base64("4111 1111 1111 1111"), associated_data=to_base64("orders.card.7")
)
ciphertext = sealed["data"]["ciphertext"]
opened = transit.decrypt_data(name="keyring", ciphertext=ciphertext, associated_data=to_base64("orders.card.7"))
print(from_base64(opened["data"]["plaintext"]))
try:
    transit.decrypt_data(name="keyring", ciphertext=ciphertext, associated_data=to_base64("orders.card.8"))
except hvac.exceptions.InvalidRequest as error:
    print("; ".join(error.errors))

emails = {"users.email.1": "alice@example.org", "users.email.2": "bob@example.org"}
items = [{"plaintext": to_base64(email), "associated_data": to_base64(row)} for row, email in emails.items()]
sealed = transit.encrypt_data(name="keyring", plaintext=None, batch_input=items)["data"]["batch_results"]
items = [
    {"ciphertext": one["ciphertext"], "associated_data": to_base64(row)} for row, one in zip(emails, sealed)
]
opened = transit.decrypt_data(name="keyring", batch_input=items)["data"]["batch_results"]
print(*(from_base64(one["plaintext"]) for one in opened))
