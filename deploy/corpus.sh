#!/usr/bin/env bash
# Makes Debian's rust-doc readable here: installed if we may, else unpacked under .cache/. Prints nothing when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."
book=usr/share/doc/rust-doc/html/book
[ -d "/$book" ] || [ -d ".cache/rust-doc/$book" ] && exit 0
if [ "$(id -u)" = 0 ]; then
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rust-doc >/dev/null
  exit 0
fi
mkdir -p .cache/rust-doc
(cd .cache && apt-get download -qq rust-doc && dpkg -x rust-doc_*.deb rust-doc && rm rust-doc_*.deb) || {
  echo "rust-doc is missing: install it with 'apt-get install rust-doc'" >&2
  exit 1
}
