#!/bin/sh
# deploy/build.sh PACKAGE FOLDER: compiles PACKAGE and lays out in FOLDER what its image holds.
# The Dockerfile calls it, and tests/sdk/test_deploy.py, so that it is tried without an engine.
set -eu
package=$1
folder=$2
cd "$(dirname "$0")/.."

cargo build --release --locked --package "$package"
program=$folder/usr/local/bin/$package
install -D --strip --mode=755 "${CARGO_TARGET_DIR:-target}/release/$package" "$program"

# A library that the base image lacks would be missed only when a container starts.
for library in $(objdump -p "$program" | awk '$1 == "NEEDED" { print $2 }'); do
    case $library in
        libc.so.6 | libm.so.6 | libgcc_s.so.1 | libstdc++.so.6 | ld-linux-*.so.*) ;;
        libssl.so.3 | libcrypto.so.3) ;;
        *)
            echo "$package needs $library, which the Dockerfile's base image has not" >&2
            exit 1
            ;;
    esac
done

# A new volume takes over owner and mode from the image's folder.
install -d -m 700 "$folder/dunlin-data"
