"""Common programs: what each does at worst, which options it has, and which words are paths.

A row is `names | class | operands | options | findings`.

Operands: `paths` are read; `pattern` are too, but for the first one; `writes` are written or
removed; of `copy` the last one is written, of `first` the first one, and the others are read; of
`in-out` a second one is written; of `mode` a first one that is a mode or an owner is no path;
`here` says that it writes where it is; `words` are none of this; `hosts` name machines; `format`
begin with `+`; `none`: there are none.

Options: `*` takes any; `-abc` are flags, `-n:` has a value, `-o>` one that is a path to write and
`-f<` one to read; `--long` stands for with and without `=…`, `--long:` has a value as the next
word as well, and `-b?` one that may only be attached; `-#` takes numbers (`-20`). What is not
listed, or not literal, makes it unknown.

Options: GNU coreutils 9.4, findutils 4.9, util-linux 2.39, procps 4.0, iproute2 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from agentaudit.risk.shell_effects import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A row of the table."""

    cls: str
    operands: str
    options: Options
    findings: tuple[str, ...] = ()


_ROWS: Final = """
# The shell's own, as far as they touch nothing but it.
: true false echo pwd sleep times logout dirs bg disown suspend | session | words | *
wait | session | words | -n
jobs | session | words | -lprs
type which whence whereis help caller | read | words | *

# Files.
ls dir vdir cat tac nl head tail wc cut paste join comm fold fmt | read | paths | *
expand unexpand od hexdump hd strings stat cksum sum md5sum sha1sum sha224sum | read | paths | *
sha256sum sha384sum sha512sum b2sum du df readlink realpath basename dirname | read | paths | *
cmp diff column rev zcat bzcat xzcat lzcat zcmp zdiff | read | paths | *
lsattr getfacl getcap namei | read | paths | *
base64 base32 | read | paths | -diw: --decode --wrap: --ignore-garbage
zstdcat | read | paths | -qv
grep egrep fgrep zgrep zegrep zfgrep jq | read | pattern | *
tr seq expr factor numfmt locale getconf nproc arch cal tput | read | words | *
printenv | read | words | * | shows environment
file | read | paths | -bikLhNnprsvzZ0 -f< -F: -m< --brief --mime --mime-type --mime-encoding
tree | read | paths | -adflxiqNpsughDFrtUcvnCASJXQ -L: -P: -I: --dirsfirst --noreport --prune --du
uniq | read | in-out | -cdDiuz -f: -s: -w: --count --repeated --unique --ignore-case
xxd | read | in-out | -abeEiupr -# -c: -g: -l: -n: -o: -s:
sort | read | paths | -bcCdfghiMmnRrsuVz -k: -t: -S: -o> --output> --reverse --unique --key:
  --numeric-sort --field-separator: --human-numeric-sort --stable --check --version-sort
  --ignore-case --general-numeric-sort --zero-terminated
rg | read | pattern | -acFiInlNoqsSuUvwxLHp0 -e: -g: -t: -T: -A: -B: -C: -m: -f< -j: --hidden
  --no-ignore --files --json --type: --glob: --count --stats --no-heading --max-count:
yq | read | pattern | -rPCeMjn -o: -p:
xmllint | read | paths | --format --noout --xpath: --huge --nonet --recover --nowarning
touch mkdir mknod mkfifo | write | writes | *
mktemp | write | words | -dqu -p> --directory --dry-run
rmdir unlink rm | write | writes | * | deletes
shred wipe srm | write | writes | * | deletes, overwrites
truncate fallocate | write | writes | * -s: -r: --size: --reference: | overwrites
cp | write | copy | * -t> --target-directory> | overwrites
install | write | copy | -dDvbCp -m: -o: -g: -t> --target-directory> --mode: | overwrites
mv | write | writes | * -t> --target-directory> | overwrites
ln link | write | copy | * -t> --target-directory>
tee | write | writes | * | overwrites
split | write | in-out | -dxeu -n: -l: -b: -C: -a: --lines: --bytes: --additional-suffix:
csplit | write | here | -f> -b: -n: -kqsz
gzip gunzip bzip2 bunzip2 xz unxz zstd unzstd compress uncompress | write | writes | *
chmod chown chgrp | write | mode | * | changes rights
chattr setfacl chcon | write | writes | * | changes rights
setcap | admin | writes | * | changes rights
unzip | write | here | * -d>
zip | write | first | -rqj9vdu0123456789mfyXlk -x: -i:

# The machine.
free uptime vmstat iostat mpstat lscpu lsblk lsusb lsmod lsns lsipc | read | words | *
lspci | read | words | -vnkmtxbD -s: -d:
uname whoami id groups who w last lastb users tty logname hostid | read | words | *
ps pgrep pidof pstree netstat findmnt mountpoint getent | read | words | *
blkid | read | paths | -p -o: -s: -L: -U:
sensors | read | words | -fuAj
hostname | read | none | -adfiIsAy --fqdn --short --ip-address --all-ip-addresses
hostnamectl timedatectl localectl | read | none | -j --no-pager --json:
date | read | format | -uR -I? -d: -r< -f< --date: --utc --iso-8601 --rfc-3339 --rfc-email
  --reference<
dmesg | read | none | -TtxkuwWLePSr -l: -f: --ctime --level: --facility: --follow --since: --until:
journalctl | read | words | -aefqrxkmN -b? -n? -u: -p: -S: -U: -o: -t: -g: -D: -F: -# --no-pager
  --unit: --since: --until: --lines --output: --priority: --follow --reverse --boot --dmesg
  --grep: --identifier: --list-boots --disk-usage --utc --quiet --all --user --system --user-unit:
ss | read | words | -natuplxw4s6reHiomOEM0 --listening --tcp --udp --processes --numeric --all
lsof | read | paths | -nPlRUtbwXV -i? -p: -u: -c: -d: -s? -g? -a
dmidecode | read | none | -q -t: -s:
fuser | read | words | -vuamn46
ping ping6 traceroute tracepath dig nslookup host whois | read | hosts | * | contacts host
arp route | read | none | -nave46
ifconfig | read | none | -as
kill pkill killall skill xkill | write | words | * | ends processes
renice | write | words | *
reboot shutdown halt poweroff init telinit kexec | admin | words | * | ends processes
mkfs mkfs.ext2 mkfs.ext3 mkfs.ext4 mkfs.xfs mkfs.vfat | admin | writes | * | writes device
mke2fs mkswap wipefs fdisk sfdisk gdisk sgdisk parted | admin | writes | * | writes device
partprobe blkdiscard hdparm nvme badblocks debugfs tune2fs | admin | writes | * | writes device
resize2fs fsck mkfs.btrfs | admin | writes | * | writes device
lvremove vgremove pvremove lvcreate vgcreate pvcreate | admin | words | * | writes device
mdadm dmsetup zpool zfs btrfs cryptsetup | admin | words | * | writes device
mount umount swapon swapoff losetup modprobe insmod rmmod | admin | words | * | changes kernel
sysctl setenforce depmod | admin | words | * | changes kernel
iptables ip6tables nft ufw firewall-cmd ipset ebtables tc | admin | words | * | changes network
iptables-restore ip6tables-restore nmcli netplan ethtool brctl | admin | words | * | changes network
useradd userdel usermod adduser deluser groupadd groupdel | admin | words | * | manages users
passwd chpasswd chage gpasswd chsh chfn loginctl groupmod | admin | words | * | manages users
apt-get aptitude dnf yum zypper pacman apk emerge snap | admin | words | * | manages packages
dpkg-reconfigure flatpak | admin | words | * | manages packages
update-rc.d chkconfig rc-update rc-service initctl | admin | words | * | manages services
update-alternatives launchctl supervisorctl | admin | words | * | manages services
update-grub grub-install update-initramfs grubby efibootmgr | admin | words | * | startup file
ldconfig auditctl restorecon semanage setsebool hwclock chronyc ntpdate | admin | words | *

# The network.
ssh-keygen ssh-copy-id | write | words | * | login file
nc ncat netcat socat telnet openvpn | unknown | words | * | opens socket, sends data
ftp tftp lftp sftp | unknown | words | * | sends data
mail mailx sendmail mutt swaks | unknown | words | * | sends data
rclone s3cmd gsutil azcopy | unknown | words | * | sends data

# What goes on, or comes later.
at batch atrm systemd-run anacron | unknown | words | * | schedules
screen tmux byobu | unknown | words | * | stays behind

# Clients of databases and their like: what is asked is not read.
mysql mariadb sqlite3 mongo mongosh redis-cli clickhouse-client cqlsh | unknown | words | *
pg_isready | read | words | -q -d: -h: -p: -U: -t: --host: --port: --dbname: --username:
pg_dump pg_dumpall | read | words | -acCOsvxb -d: -h: -p: -U: -n: -N: -t: -T: -F: -Z: -f> --file>
  --schema-only --data-only --host: --port: --username: --dbname: --table: --no-owner --no-acl
createdb dropdb createuser dropuser pg_ctl | admin | words | *

# Languages, builds and editors: whatever is in the files.
make cmake ninja gradle mvn ant npx tox pytest rustc gcc g++ cc | unknown | words | * | runs code
ansible ansible-playbook terraform tofu pulumi vagrant packer | unknown | words | * | runs code
perl lua tclsh Rscript bun irb ipython gdb osascript | unknown | words | * | runs code
expect clang puppet salt zsh ksh mksh fish csh tcsh | unknown | words | * | runs code
ed ex vi vim nvim view vimdiff emacs nano less more man info most | unknown | words | *
"""


def _read_rows() -> dict[str, Tool]:
    tools: dict[str, Tool] = {}
    for row in _ROWS.replace("\n  ", " ").splitlines():
        if not row or row.startswith("#"):
            continue
        names, cls, operands, listed, *shown = (part.strip() for part in row.split("|"))
        findings = tuple(shown[0].split(", ")) if shown else ()
        tool = Tool(cls=cls, operands=operands, options=options(listed), findings=findings)
        for name in names.split():
            tools[name] = tool
    return tools


def options(text: str) -> Options:
    """Return the options that a text lists, in the notation above."""
    listed = text.split()
    kinds: dict[str, str] = {}
    for option in listed:
        if option in ("*", "-#"):
            continue
        name, kind = option, ""
        if option[-1] in ":<>?":
            name, kind = option[:-1], option[-1]
        if name.startswith("--"):
            kinds[name[2:]] = kind or "?"
        elif kind:
            kinds.update(dict.fromkeys(name[1:-1], ""))
            kinds[name[-1]] = kind
        else:
            kinds.update(dict.fromkeys(name[1:], ""))
    return Options(
        kinds=kinds, takes_any="*" in listed, takes_numbers="-#" in listed or "*" in listed
    )


TOOLS: Final = _read_rows()
"""By the name under which it is called."""
