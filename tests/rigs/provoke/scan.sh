#!/bin/sh
# Somebody tries ports on which nobody ever listened, and a poller asks for one again and again: nothing failed.
. "$(dirname "$0")/lib.sh"
begin N5

python3 - <<'PYTHON'
import socket
for port in [*range(9000, 9040), *[9100] * 20]:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        pass
PYTHON
say did what=scanned unit=- ports=41
end
