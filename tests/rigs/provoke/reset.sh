#!/bin/sh
# Ends what the other scripts left and forgets it, so that each can begin as if it were the first.
. "$(dirname "$0")/lib.sh"
begin 0

made=/run/systemd/system/provoked.target.d
for file in "$made"/*.conf; do
    [ -e "$file" ] || continue
    name=$(basename "$file" .conf)
    # One that is away already, or a template: what is left afterwards is what counts.
    systemctl stop --no-block "$name" 2>/dev/null || true
    rm -f "/run/systemd/system/$name"
done
over() {
    [ "$(systemctl list-jobs --no-legend | wc -l)" = 0 ]
}
await over
systemctl stop provoked.target 2>/dev/null || true
rm -rf /run/systemd/system/provoked.target "$made" /run/recovered.once
systemctl daemon-reload
systemctl reset-failed
for place in /srv/*; do
    ! mountpoint -q "$place" || umount "$place"
done
say did what=reset unit=-
end
