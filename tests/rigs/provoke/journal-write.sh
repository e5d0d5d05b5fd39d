#!/bin/sh
# Writes numbered entries to the journal: `journal-write.sh COUNT TAG`; they have TAG and their number.
. "$(dirname "$0")/lib.sh"
begin 0

count=${1:-1000} tag=${2:-entry}
# In pieces, with rests: journald's rate limit is off here, but its queue of datagrams has an end.
python3 - "$count" "$tag" <<'PYTHON'
import socket, sys
count, tag = int(sys.argv[1]), sys.argv[2]
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.connect("/run/systemd/journal/socket")
for number in range(count):
    text = f"MESSAGE={tag} number {number}\nPRIORITY=6\nSYSLOG_IDENTIFIER={tag}\nTAPIO_NUMBER={number}\n"
    journal.send(text.encode())
PYTHON
say did what=logged unit=- "entries=$count" "tag=$tag"
end
