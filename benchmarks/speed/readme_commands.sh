#!/usr/bin/env bash
# Run the README's two commands as a newcomer would, each in a fresh copy of the committed tree, and print how long they took.
#
#     bash benchmarks/speed/readme_commands.sh [quickstart|test]
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for name in ${1:-quickstart test}; do
    command=$(sed -n "/<!-- ci:$name -->/,/<!-- ci:end -->/p" README.md | grep -v -e '^<!--' -e '^```')
    git clone -q . "$folder/$name"
    echo "== $command"
    began=$SECONDS
    (cd "$folder/$name" && bash -euo pipefail -c "$command") 2>&1 | tail -n 20
    echo "== $name: $((SECONDS - began)) s, installation included"
done
