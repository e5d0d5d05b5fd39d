#!/bin/sh
# The journal is rotated and old files are removed, again and again, while entries are written:
# `journal-rotate.sh COUNT TAG KEPT` writes COUNT numbered entries in ten parts, with a rotation after each, and
# leaves KEPT old files of each sort.
. "$(dirname "$0")/lib.sh"
begin 0

part=$((${1:-1000} / 10)) tag=${2:-rotated} kept=${3:-3}
number=0
for round in 1 2 3 4 5 6 7 8 9 10; do
    seq -f "$tag number %g" "$number" $((number + part - 1)) | systemd-cat --identifier="$tag"
    number=$((number + part))
    journalctl --quiet --sync
    journalctl --quiet --rotate
    [ $((round % 3)) != 0 ] || journalctl --quiet --vacuum-files="$kept"
done
say did what=rotated unit=- rotations=10 "entries=$number" "tag=$tag"
end
