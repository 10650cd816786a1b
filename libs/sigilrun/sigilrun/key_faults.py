"""Every way in which a key or a passphrase can be refused, one class each, with what to do next.

No message here ever holds a passphrase, a key, or the text that someone gave where a passphrase source
was expected: people paste secrets into the wrong place, and messages end in logs.
"""

from typing import ClassVar


class KeystoreError(Exception):
    """A key can't be used; the message says why, `next_step` what to do."""

    next_step: ClassVar[str] = "See the message."

    def __init__(self, message: str) -> None:
        """The text is the message and then the class's next step."""
        super().__init__(f"{message} {self.next_step}")


class WrongPassphrase(KeystoreError):  # noqa: N818 - named after what is wrong
    """The file is whole and this passphrase does not open it."""

    next_step = "Give the passphrase that it was made with; nobody can recover a lost one."


class EmptyPassphrase(KeystoreError):  # noqa: N818
    """There is no passphrase: nothing was given, or only a newline, or the passphrase file does not exist."""

    next_step = "Give a passphrase from file:PATH, fd:N or prompt."


class PassphraseTooLong(KeystoreError):  # noqa: N818
    """The source holds more bytes than any passphrase; it is probably the wrong file."""

    next_step = "Name a file that holds the passphrase and nothing else."


class PassphraseMismatch(KeystoreError):  # noqa: N818
    """A new passphrase was typed differently the second time."""

    next_step = "Type it again."


class DamagedKey(KeystoreError):  # noqa: N818
    """The file is not what was written: bytes changed, fields swapped, or a file under another's name."""

    next_step = "Restore it from a backup; these files are never edited by hand."


class WrongPermissions(KeystoreError):  # noqa: N818
    """Others could read or replace the file, or it belongs to somebody else."""

    next_step = "As the owner, run chmod 700 on the folder and chmod 600 on the file; use no symbolic link."


class KeyMissing(KeystoreError):  # noqa: N818
    """There is no such key, key file or keystore."""

    next_step = "Check the name and the path, or make the key first."


class KeyExists(KeystoreError):  # noqa: N818
    """Something of this name is there already."""

    next_step = "Choose another name, or move the old file away yourself; a key is never overwritten."


class UnknownFormat(KeystoreError):  # noqa: N818
    """The file says it has a format that this version does not read."""

    next_step = "Open it with the version of Sigil that wrote it."


class UnsafeKdf(KeystoreError):  # noqa: N818
    """The key derivation is cheaper than we accept, or dearer than we are willing to pay."""

    next_step = "Use parameters within the bounds; if you didn't choose them, somebody changed the file."


class BadName(KeystoreError):  # noqa: N818
    """A key's name must be able to be a file's name and nothing more."""

    next_step = "Use 1 to 64 letters, digits, dots, dashes, underscores or @, beginning with a letter or digit."


class WrongKeyKind(KeystoreError):  # noqa: N818
    """A signing key was asked to encrypt, or an encrypting key to sign."""

    next_step = "Name a key of the right kind; keystore keys are of one kind for ever."


class UnknownSource(KeystoreError):  # noqa: N818
    """A signer or a passphrase was asked from a place that we don't take it from."""

    next_step = "Signers: file:PATH or file:FOLDER#NAME. Passphrases: file:PATH, fd:N or prompt."


class KeystoreClosed(KeystoreError):  # noqa: N818
    """The keystore was closed and its key-encryption key overwritten."""

    next_step = "Open it again with the passphrase."


class SealBroken(KeystoreError):  # noqa: N818
    """What was to be decrypted was not sealed by this key for this purpose, or has changed since."""

    next_step = "Check that the sealed bytes and their associated data belong together."
