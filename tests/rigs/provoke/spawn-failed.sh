#!/bin/sh
# Units whose program cannot be started: it is not there, its user is not there, its folder is not there.
. "$(dirname "$0")/lib.sh"
begin 19

unit spawn-exec.service <<'UNIT'
[Service]
ExecStart=/opt/nowhere/program
UNIT
unit spawn-user.service <<'UNIT'
[Service]
User=nobody-of-this-name
ExecStart=/bin/true
UNIT
unit spawn-chdir.service <<'UNIT'
[Service]
WorkingDirectory=/opt/nowhere
ExecStart=/bin/true
UNIT
reload
start spawn-exec.service spawn-user.service spawn-chdir.service
outcome spawn-exec.service failed exit-code exited 203
outcome spawn-user.service failed exit-code exited 217
outcome spawn-chdir.service failed exit-code exited 200
end
