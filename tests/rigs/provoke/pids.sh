#!/bin/sh
# A unit makes processes until it may not have more, and ends for it.
. "$(dirname "$0")/lib.sh"
begin 27

unit pids.service <<'UNIT'
[Service]
TasksMax=20
ExecStart=/usr/bin/python3 -c 'import os, sys, time\nfor number in range(100):\n try:\n  if os.fork() == 0: time.sleep(3); os._exit(0)\n except OSError as error: print("fork:", error, file=sys.stderr, flush=True); time.sleep(1); sys.exit(1)'
UNIT
reload
start pids.service
outcome pids.service failed exit-code exited 1
end
