"""Which lines leave the shell as it was: all others end the certainty of what follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentaudit.protocols.ssh_plain import Survey, survey

PLAIN = """
ls
ls -la /tmp | wc -l
cat x y
cat < x
cat x* | grep -v '^#' | sort -rn -k 2,2 | uniq -c | head -5
grep -rn foo .
find . -name '*.py' -type f -delete
awk '{print $1}' f
sed -n '1,5p' f
sed -i 's/a/b/g' f
head -n 5 x
tail -f x
ls > out 2>&1 < in
ls &> out; ls >> out
echo 'a' "b $x ${y} $(date) \\$" $'c\\'d' e#f # ' "
x=5 y=$(ls)
LANG=C ls
export name=value
for i in 1 2 3; do echo $i; done
if [ -f x ]; then cat x; elif true; then ls; else pwd; fi
while false; do ls; done; until true; do ls; done
(cd x && ls) || { pwd; }
! ls && time ls
echo $((1 + 2)) {1..3} {a,b}
mkdir -p a/b && cd a/b
rm -rf ~/x
/usr/bin/ls /bin
cat <<EOF
cat ~/.bashrc
tar xzf a.tgz
sudo -n -u other systemctl --no-pager status x
sudo rm x
curl -s https://example.com/x -o y
ip addr show
journalctl --no-pager -u x
journalctl -u x | tail
top -b -n 1
history 5
command -v ls
gzip x
passwd
exit
printf '%s\\n' -v
tr a b < f
diff a b
cat <<-'EOF' | tr a b
> file
> file; ls
type ls; which ls
base64 -d x
""".strip().split("\n")

DOUBTED = """
python3
./x
bash x
bash -c ls
$x
x=1 y=2 $z
"$(ls)"
cat
cat -
cat x -
cat /dev/tty
cat < /dev/tty
cat <&3
cat /proc/self/fd/0
cat $x
cp /dev/stdin x
ln -s /dev/tty x
head -n 5
head -c 5 x
head --bytes=5 x
sed 's/a/b/e' x
sed -f x y
sed 's/a/b/w x' y
awk 'BEGIN{system("x")}' f
awk -f x y
find . -exec ls {} +
find . -fprintf x y
tar --checkpoint-action=exec=x -cf a b
tar -cf a --to-command=x b
ls | tee | x
tee x
grep x
grep -f - x
less x | cat
less -X x
less +F x
vim -c ls x
vim +x y
vim x; ls
ls; vim x &
systemctl edit x
man -P x y
export PATH=x
PATH=x ls
histchars=abc
export -f x
unset 'a[$(ls)]'
[ -v 'a[$(ls)]' ]
printf -v PS1 x
jobs -x ls
echo $((x))
echo ${x@P}
echo `ls`
[[ -f x ]]
cat <(ls)
echo $(python3)
a=$(python3)
date -f -
dig -f x
wc --files0-from=x
curl -K x
curl -d @- x
ip netns exec x ls
command ls
source x
. x
eval ls
exec ls
trap ls EXIT
alias x=ls
set -o vi
stty -echo
bind x
read x
sudo -s ls
sudo -u x -i
sudo -E ls
sudo vim x
sudo
history -c
ssh x
git status
make
printf x > ~/.inputrc
cp x ~/.vimrc
sudo cp x /etc/inputrc
cp x ~/bin/ls
mysql -p
for PS1 in a; do ls; done
gzip -
top -x
zgrep --x y z
grep -e
""".strip().split("\n")

OPEN = """
echo 'a
echo "a
echo "$(ls
echo a \\
ls &&
ls ||
ls |
(
(ls
{ ls
if ls
if ls; then
while ls
while ls; do
for i
for i in a b
for i in a; do ls
cat <<EOF
cat <<EOF | wc
cat <<EOF\\nline
cat <<EOF\\nline\\n EOF
""".strip().split("\n")

UNREAD = """
f() { ls; }
function f
case x in
select x
((x
[[ x
[[ 'a' ]]
echo `ls
echo ${x
echo ${x#'a}
echo $((x
echo $'a
echo $[1]
echo $"a"
ls )
}
done
then
&& ls
| ls
ls ;; ls
ls <
ls > &
for 'i' | x
if ls; do
(ls) x
coproc x
for
cat <<$(x)
cat <<EOF\\n$(ls)\\nEOF
""".strip().split("\n")


@pytest.mark.parametrize("text", PLAIN)
def test_after_a_plain_line_there_is_the_same_shell(text: str) -> None:
    text = text.replace("<<EOF", "<<EOF\ntext $x\nEOF").replace(
        "<<-'EOF' | tr a b", "<<-'EOF' | tr a b\n\t$(text)\n\tEOF"
    )
    found = survey(text)
    assert (found.doubt, found.is_open, found.is_read, found.full_screen) == ("", False, True, "")


@pytest.mark.parametrize("text", DOUBTED)
def test_after_another_line_there_may_be_anything(text: str) -> None:
    found = survey(text)
    assert found.doubt
    assert found.is_read


@pytest.mark.parametrize(
    "text",
    [
        *("rm x; time", "rm x; !", "rm x; >y if", "rm x\n{", 'cat <<"\\$"\nx\n$\nrm y'),
        "for x in a #'",
    ],
)
def test_what_bash_runs_at_once_is_not_open(text: str) -> None:
    assert not survey(text).is_open


@pytest.mark.parametrize("text", OPEN)
def test_what_the_shell_wants_more_of_is_open(text: str) -> None:
    assert survey(text.replace("\\n", "\n")) == Survey(is_open=True)


@pytest.mark.parametrize("text", UNREAD)
def test_what_is_not_read_is_said_to_be_none(text: str) -> None:
    found = survey(text.replace("\\n", "\n"))
    assert (found.is_read, found.is_open) == (False, False)
    assert found.doubt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vim x", Survey(full_screen="vim")),
        ("cd x; less -S y", Survey(full_screen="less")),
        ("ls | less", Survey(full_screen="less")),
        ("systemctl status x", Survey(full_screen="less")),
        ("top", Survey(full_screen="top")),
        ("ls &", Survey(paints=True)),
        ("(sleep 3; printf x) & ls", Survey(paints=True)),
        ("echo $(ls &)", Survey(paints=True)),
        ("sudo ls", Survey(asks=True)),
        ("sudo ls | wc", Survey()),
        ("cat x; sudo ls", Survey()),
        ("sudo -i", Survey(asks=True, is_shell=True)),
        ("su -", Survey(asks=True, is_shell=True)),
        ("bash -l", Survey(is_shell=True)),
        ("logout", Survey(is_shell=True)),
    ],
)
def test_what_a_line_leaves_behind_is_told(text: str, expected: Survey) -> None:
    assert survey(text) == expected


def test_nesting_and_length_have_limits() -> None:
    assert not survey("echo " + "$(echo " * 500).is_read
    assert not survey("(" * 100_000).is_read or survey("(" * 100_000).is_open
    assert not survey("ls;" * 1000).is_read


@given(st.text(alphabet="ls x=$(){}'\"`\\\n;&|<>#!-[]~*?1ifdothenedoneEOF", max_size=40))
def test_no_text_breaks_the_survey(text: str) -> None:
    found = survey(text)
    assert not (found.is_open and found.doubt)
