#!/bin/sh
# A program finds that it cannot go on, says so and aborts.
. "$(dirname "$0")/lib.sh"
begin 24

unit abort.service <<'UNIT'
[Service]
LimitCORE=0
ExecStart=/usr/bin/python3 -c 'import os, sys, time; time.sleep(0.3); print("fatal error: assertion failed: used <= size", file=sys.stderr, flush=True); os.abort()'
UNIT
reload
start abort.service
outcome abort.service failed signal killed 6
end
