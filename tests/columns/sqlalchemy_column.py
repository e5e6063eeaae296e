"""An encrypted attribute for SQLAlchemy 2, with a blind index. `columns.py` has the client."""

import base64
import os
import uuid

from sqlalchemy import String, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from columns import BITS, Keyring, base64_of, normalised

keyring = Keyring(os.environ["SOCKET"], "users")


class Encrypted:
    """Text that is stored encrypted in the column `<name>_sealed`, and found by `<name>_index`.

    The ciphertext is bound to `table.column.pk`. So the primary key must be known before the value is set: a UUID that the
    application makes, and no number of the database.
    """

    def __set_name__(self, owner, name):
        self.name, self.sealed, self.index = name, f"{name}_sealed", f"{name}_index"

    def label(self, owner):
        return f"{owner.__tablename__}.{self.name}"

    def place(self, row):
        if row.id is None:
            raise ValueError(f"set the id before {self.name}: the ciphertext is bound to it")
        return base64_of(f"{self.label(type(row))}.{row.id}")

    def __set__(self, row, text):
        sealed = index = None
        if text is not None:
            item = {"plaintext": base64_of(text), "associated_data": self.place(row)}
            sealed = keyring.post("encrypt", [item])[0]["ciphertext"]
            index = self.value_of_index(type(row), text)
        setattr(row, self.sealed, sealed)
        setattr(row, self.index, index)

    def __get__(self, row, owner=None):
        return self if row is None else self.open([row])[0]

    def open(self, rows):
        """The texts of many rows, by one request."""
        some = [row for row in rows if getattr(row, self.sealed) is not None]
        opened = iter(keyring.post("decrypt", [
            {"ciphertext": getattr(row, self.sealed), "associated_data": self.place(row)} for row in some
        ]))
        return [
            None if getattr(row, self.sealed) is None else base64.b64decode(next(opened)["plaintext"]).decode()
            for row in rows
        ]

    def value_of_index(self, owner, text):
        item = {
            "input": base64_of(normalised(text)),
            "associated_data": base64_of(self.label(owner)),
            "bits": BITS,
            "key_version": 1,  # the version that makes the index, whichever key is active
        }
        return keyring.post("hmac", [item])[0]["index"]

    def find(self, session, owner, text):
        """The rows with this text. The index gives candidates, the plaintexts tell."""
        indexed = getattr(owner, self.index) == self.value_of_index(owner, text)
        rows = session.scalars(select(owner).where(indexed)).all()
        return [row for row, found in zip(rows, self.open(rows)) if normalised(found) == normalised(text)]


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    email_sealed: Mapped[str | None]
    email_index: Mapped[str | None] = mapped_column(index=True)
    email = Encrypted()


if __name__ == "__main__":
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for email in ["alice@example.org", "bob@example.org", None]:
            user = User(id=str(uuid.uuid4()))
            user.email = email
            session.add(user)
        session.commit()
        users = session.scalars(select(User).order_by(User.email_sealed.is_(None))).all()
        print(sorted(filter(None, User.email.open(users))), users[-1].email)
        [alice] = User.email.find(session, User, " Alice@Example.org")
        print(alice.email, alice.email_sealed.split(":")[0])

        # A ciphertext that is copied to another row does not open there.
        other = next(user for user in users if user.email_sealed and user is not alice)
        other.email_sealed = alice.email_sealed
        try:
            print(other.email)
        except RuntimeError as error:
            print(error)
