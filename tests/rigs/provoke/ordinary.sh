#!/bin/sh
# What happens on a host where nothing is wrong: jobs, restarts on request, reloads, loud logs, load, packages that
# come and go, builds: `ordinary.sh SECONDS` of it. Nothing of this is a failure.
. "$(dirname "$0")/lib.sh"
begin 0

until_s=$(($(date +%s) + ${1:-60}))
unit ordinary-server.service <<'UNIT'
[Service]
ExecStart=/usr/bin/python3 -m http.server --bind 127.0.0.1 8080
ExecReload=/bin/true
Restart=on-failure
UNIT
unit ordinary-job.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'find /usr/lib -name "*.so*" | xargs md5sum >/dev/null; echo 0 errors, 3 warnings: the failed checks of last week are fixed'
UNIT
unit ordinary-job.timer <<'UNIT'
[Timer]
OnActiveSec=1
OnUnitInactiveSec=7
AccuracySec=100ms
UNIT
reload
# A package with a service of its own, as distributions make them.
package=/var/tmp/ordinary-package
mkdir -p $package/DEBIAN $package/usr/lib/systemd/system $package/usr/share/ordinary
cp -r /usr/lib/python3/dist-packages $package/usr/share/ordinary/ 2>/dev/null || true
cat >$package/DEBIAN/control <<'CONTROL'
Package: ordinary
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: comes and goes
CONTROL
cat >$package/usr/lib/systemd/system/ordinary-packaged.service <<'UNIT'
[Service]
ExecStart=/bin/sleep infinity
UNIT
printf '#!/bin/sh\nset -e\nsystemctl daemon-reload\nsystemctl restart ordinary-packaged.service\n' >$package/DEBIAN/postinst
printf '#!/bin/sh\nset -e\nsystemctl stop ordinary-packaged.service\n' >$package/DEBIAN/prerm
chmod 755 $package/DEBIAN/postinst $package/DEBIAN/prerm
dpkg-deb --build $package /var/tmp/ordinary.deb >/dev/null
systemctl start ordinary-server.service ordinary-job.timer
answers() {
    ss --no-header --listening --tcp --numeric 'sport = 8080' | grep -q .
}
rounds=0
while [ "$(date +%s)" -lt "$until_s" ]; do
    rounds=$((rounds + 1))
    # A client that knows when a server is up; those that do not are another script's matter.
    await answers
    python3 -c 'import urllib.request; [urllib.request.urlopen("http://127.0.0.1:8080/").read() for _ in range(20)]'
    # A test that may fail, a search that finds nothing, a pipe that nobody reads to its end.
    grep -q nothing-of-this-name /etc/hosts || true
    yes | head -n 1000 >/dev/null
    logger --tag ordinary "error rate 0.0, last failure never, timeout 30 s" 2>/dev/null || true
    case $((rounds % 8)) in
    1) systemctl restart ordinary-server.service ;;
    2) systemctl reload ordinary-server.service ;;
    3) systemd-run --quiet --wait --collect sh -c 'dd if=/dev/zero bs=1M count=64 2>/dev/null | md5sum' ;;
    4) mkdir -p /var/tmp/ordinary && cp -r /usr/share/zoneinfo /var/tmp/ordinary/ 2>/dev/null && rm -rf /var/tmp/ordinary ;;
    5) systemctl daemon-reload ;;
    6) dpkg --install /var/tmp/ordinary.deb >/dev/null 2>&1 ;;
    7)
        dpkg --remove ordinary >/dev/null 2>&1
        # A build: many short processes, some that fail because they only ask, files that come and go.
        rm -rf /var/tmp/ordinary-build
        cp -r /usr/lib/python3.11/json /var/tmp/ordinary-build
        for file in /var/tmp/ordinary-build/*.py; do
            python3 -m py_compile "$file"
            test -e "$file.not" || false || true
        done
        ;;
    esac
    sleep 1
done
dpkg --remove ordinary >/dev/null 2>&1 || true
systemctl stop ordinary-job.timer ordinary-server.service
say did what=lived unit=- "rounds=$rounds"
outcome ordinary-server.service inactive success killed 15
end
