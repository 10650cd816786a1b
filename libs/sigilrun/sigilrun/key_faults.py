"""Every way in which a key or a passphrase can be refused, one class each, with what to do next.

No message here ever holds a passphrase, a key, or the text that someone gave where a passphrase source
was expected: people paste secrets into the wrong place, and messages end in logs.

Each class has an exit code of its own for command lines, 10 and up, which never changes: scripts tell by it.
"""

from typing import ClassVar


class KeystoreError(Exception):
    """A key can't be used; the message says why, `next_step` what to do."""

    next_step: ClassVar[str] = "See the message."
    exit_code: ClassVar[int] = 29

    def __init__(self, message: str) -> None:
        """The text is the message and then the class's next step."""
        super().__init__(f"{message} {self.next_step}")
        self.what = message


class WrongPassphrase(KeystoreError):  # noqa: N818 - named after what is wrong
    """The file is whole and this passphrase does not open it."""

    next_step = "Give the passphrase that it was made with; nobody can recover a lost one."
    exit_code = 13


class EmptyPassphrase(KeystoreError):  # noqa: N818
    """There is no passphrase: nothing was given, or only a newline, or the passphrase file does not exist."""

    next_step = "Give a passphrase from file:PATH, fd:N or prompt."
    exit_code = 22


class PassphraseTooLong(KeystoreError):  # noqa: N818
    """The source holds more bytes than any passphrase; it is probably the wrong file."""

    next_step = "Name a file that holds the passphrase and nothing else."
    exit_code = 23


class PassphraseMismatch(KeystoreError):  # noqa: N818
    """A new passphrase was typed differently the second time."""

    next_step = "Type it again."
    exit_code = 24


class DamagedKey(KeystoreError):  # noqa: N818
    """The file is not what was written: bytes changed, fields swapped, or a file under another's name."""

    next_step = "Restore it from a backup; these files are never edited by hand."
    exit_code = 16


class TruncatedKey(DamagedKey):
    """The file breaks off: a copy or a disk ended before it did."""

    next_step = "Copy it again, or restore it from a backup; the rest can't be guessed."
    exit_code = 14


class AlteredKey(DamagedKey):
    """The passphrase is right and the key does not decrypt, or is another's: bytes were changed on purpose or by a failing disk."""

    next_step = "Restore it from a backup, and find out who could write to the file."
    exit_code = 15


class UnsafeKey(DamagedKey):
    """The public key is no canonical point of the prime-order group: anybody could sign for it."""

    next_step = "Make a new key, and ask how this one came into the file; ours never makes such a key."
    exit_code = 19


class WrongPermissions(KeystoreError):  # noqa: N818
    """Others could read or replace the file, or it belongs to somebody else."""

    next_step = "As the owner, run chmod 700 on the folder and chmod 600 on the file; use no symbolic link."
    exit_code = 11


class NotRegularFile(WrongPermissions):
    """A symbolic link, a pipe, a device or a folder stands where a file should, or a file where a folder should."""

    next_step = "Name the file itself; no link, pipe or device is followed."
    exit_code = 12


class KeyMissing(KeystoreError):  # noqa: N818
    """There is no such key, key file or keystore."""

    next_step = "Check the name and the path, or make the key first."
    exit_code = 10


class NoSpace(KeystoreError):  # noqa: N818
    """The disk is full, or a quota or limit is reached: nothing was made."""

    next_step = "Make room, then make the key again; no half of it was left behind."
    exit_code = 20


class KeyExists(KeystoreError):  # noqa: N818
    """Something of this name is there already."""

    next_step = "Choose another name, or move the old file away yourself; a key is never overwritten."
    exit_code = 21


class UnknownFormat(KeystoreError):  # noqa: N818
    """The file says it has a format that this version does not read."""

    next_step = "Open it with the version of Sigil that wrote it."
    exit_code = 17


class UnsafeKdf(KeystoreError):  # noqa: N818
    """The key derivation is cheaper than we accept, or dearer than we are willing to pay."""

    next_step = "Use parameters within the bounds; if you didn't choose them, somebody changed the file."
    exit_code = 18


class BadName(KeystoreError):  # noqa: N818
    """A key's name must be able to be a file's name and nothing more."""

    next_step = "Use 1 to 64 letters, digits, dots, dashes, underscores or @, beginning with a letter or digit."
    exit_code = 25


class WrongKeyKind(KeystoreError):  # noqa: N818
    """A signing key was asked to encrypt, or an encrypting key to sign."""

    next_step = "Name a key of the right kind; keystore keys are of one kind for ever."
    exit_code = 26


class UnknownSource(KeystoreError):  # noqa: N818
    """A signer or a passphrase was asked from a place that we don't take it from."""

    next_step = "Signers: file:PATH or file:FOLDER#NAME. Passphrases: file:PATH, fd:N or prompt."
    exit_code = 27


class KeystoreClosed(KeystoreError):  # noqa: N818
    """The keystore was closed and its key-encryption key overwritten."""

    next_step = "Open it again with the passphrase."
    exit_code = 28


class SealBroken(KeystoreError):  # noqa: N818
    """What was to be decrypted was not sealed by this key for this purpose, or has changed since."""

    next_step = "Check that the sealed bytes and their associated data belong together."
    exit_code = 30
