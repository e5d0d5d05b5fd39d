#!/bin/sh
# A unit ends with an exit code of its own.
. "$(dirname "$0")/lib.sh"
begin 0

unit exit-code.service <<'UNIT'
[Service]
ExecStart=/bin/sh -c 'echo cannot open the ledger >&2; exit 3'
UNIT
reload
start exit-code.service
outcome exit-code.service failed exit-code exited 3
end
