"""An encrypted field for Django, with a blind index. `columns.py` has the client."""

import base64
import os
import uuid

import django
from django.conf import settings
from django.db import connection, models
from django.db.models.query_utils import DeferredAttribute

from columns import BITS, Keyring, base64_of, normalised

keyring = Keyring(os.environ["SOCKET"], "users")


class Sealed(str):
    """A ciphertext, to tell it from a plaintext."""


class EncryptedAttribute(DeferredAttribute):
    """Holds the ciphertext. It encrypts what is assigned, and decrypts what is read."""

    def __get__(self, row, owner=None):
        held = super().__get__(row, owner)
        return self.field.open([row])[0] if isinstance(held, Sealed) else held

    def __set__(self, row, value):
        if isinstance(value, str) and not isinstance(value, Sealed):
            setattr(row, self.field.index, self.field.value_of_index(value))
            item = {"plaintext": base64_of(value), "associated_data": self.field.place(row)}
            value = Sealed(keyring.post("encrypt", [item])[0]["ciphertext"])
        elif value is None:
            setattr(row, self.field.index, None)
        row.__dict__[self.field.attname] = value


class EncryptedTextField(models.TextField):
    """Text that is stored encrypted, and found by the field `index`.

    The ciphertext is bound to `table.column.pk`. So the primary key must be known before the value is set: a UUID that Django
    makes, declared before this field, and no number of the database. Declare the field `index` before this one, too.
    """

    descriptor_class = EncryptedAttribute

    def __init__(self, *arguments, index, **options):
        super().__init__(*arguments, **options)
        self.index = index

    def deconstruct(self):
        name, path, arguments, options = super().deconstruct()
        return name, path, arguments, options | {"index": self.index}

    def label(self):
        return f"{self.model._meta.db_table}.{self.column}"

    def place(self, row):
        if row.pk is None:
            raise ValueError(f"set the primary key before {self.name}: the ciphertext is bound to it")
        return base64_of(f"{self.label()}.{row.pk}")

    def from_db_value(self, value, expression, connection):
        return None if value is None else Sealed(value)

    def pre_save(self, row, add):
        return row.__dict__[self.attname]

    def get_prep_value(self, value):
        if value is not None and not isinstance(value, Sealed):
            raise TypeError(f"{self.name} is encrypted: search with find(), by {self.index}")
        return value

    def open(self, rows):
        """The texts of many rows, by one request."""
        held = [row.__dict__[self.attname] for row in rows]
        opened = iter(keyring.post("decrypt", [
            {"ciphertext": sealed, "associated_data": self.place(row)}
            for row, sealed in zip(rows, held) if sealed is not None
        ]))
        return [
            None if sealed is None else base64.b64decode(next(opened)["plaintext"]).decode() for sealed in held
        ]

    def value_of_index(self, text):
        item = {
            "input": base64_of(normalised(text)),
            "associated_data": base64_of(self.label()),
            "bits": BITS,
            "key_version": 1,  # the version that makes the index, whichever key is active
        }
        return keyring.post("hmac", [item])[0]["index"]

    def find(self, text):
        """The rows with this text. The index gives candidates, the plaintexts tell."""
        rows = list(self.model.objects.filter(**{self.index: self.value_of_index(text)}))
        return [row for row, found in zip(rows, self.open(rows)) if normalised(found) == normalised(text)]


if __name__ == "__main__":
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
    settings.configure(DATABASES=databases, DEFAULT_AUTO_FIELD="django.db.models.AutoField")
    django.setup()

    class User(models.Model):
        id = models.UUIDField(primary_key=True, default=uuid.uuid4)
        email_index = models.TextField(null=True, db_index=True, editable=False)
        email = EncryptedTextField(index="email_index", null=True)

        class Meta:
            app_label, db_table = "example", "users"

    with connection.schema_editor() as editor:
        editor.create_model(User)
    for email in ["alice@example.org", "bob@example.org", None]:
        User.objects.create(email=email)
    field = User._meta.get_field("email")
    users = list(User.objects.order_by("email"))
    print(sorted(filter(None, field.open(users))), users[0].email)
    [alice] = field.find(" Alice@Example.org")
    print(alice.email, alice.__dict__["email"].split(":")[0])

    # A ciphertext that is copied to another row does not open there.
    other = next(user for user in users if user.email and user.pk != alice.pk)
    other.__dict__["email"] = alice.__dict__["email"]
    try:
        print(other.email)
    except RuntimeError as error:
        print(error)
