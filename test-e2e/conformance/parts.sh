#!/bin/sh
# What the images of the conformance cases are made of: parts.sh DIRECTORY fills it with
#
#   busybox   static, every applet, and a shell that runs programs instead of applets of its own
#             (Debian's does the opposite, and cases look for programs in /bin)
#   nginx/    Debian's nginx with the libraries that it loads, as they lie below a root
#   httpd/    Debian's Apache, likewise
#
# Nothing is installed: sources and packages come through apt, into the directory. Made once; a
# change of this script makes them again. (About a minute on one CPU, nearly all of it busybox.)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "usage: parts.sh DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
mark=$(cksum < "$here/parts.sh")
[ "$(cat made-by 2>/dev/null || true)" != "$mark" ] || exit 0

for tool in apt-get dpkg-deb gcc make bzip2; do
    command -v $tool >/dev/null || { echo "parts.sh: $tool is missing (test-e2e/setup.sh conformance)" >&2; exit 1; }
done
rm -rf made-by busybox nginx httpd scratch
mkdir -p scratch/lists/partial scratch/debs
trap 'status=$?; [ $status = 0 ] || tail -n 20 scratch/log >&2 2>/dev/null; exit $status' EXIT

# The machine's own package sources, asked for source packages: both of apt's formats.
sources() {
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -f "$file" ] || sed -n 's/^Types:.*/Types: deb-src/; p; $a\\' "$file"
    done > scratch/apt.sources
    cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null \
        | sed -n 's/^deb /deb-src /p' > scratch/apt.list || true
    mkdir -p scratch/sources.d
    mv scratch/apt.sources scratch/sources.d/
}

apt_sources() {
    apt-get -q -o Dir::Etc::sourcelist="$PWD/scratch/apt.list" -o Dir::Etc::sourceparts="$PWD/scratch/sources.d" \
        -o Dir::State::lists="$PWD/scratch/lists" -o APT::Sandbox::User=root "$@" >> scratch/log 2>&1
}

busybox() {
    echo "parts.sh: building busybox from Debian's source" >&2
    sources
    # A third party's repository without sources is no reason to stop: what counts is busybox.
    apt_sources update || true
    (cd scratch && mkdir -p source)
    apt_sources source --download-only busybox
    mv busybox_* scratch/
    tar -xf scratch/busybox_*.orig.tar.* -C scratch/source --strip-components=1
    (
        cd scratch/source
        make defconfig
        # tc does not compile with the headers of newer kernels.
        sed -i -e 's/.*CONFIG_STATIC[ =].*/CONFIG_STATIC=y/' -e 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
        yes '' | make oldconfig
        make -j"$(nproc)" busybox
    ) >> scratch/log 2>&1
    mv scratch/source/busybox busybox
}

# tree NAME PROGRAM PACKAGE...: unpacks packages below scratch/NAME and gathers PROGRAM with its
# libraries below NAME.
tree() {
    name=$1 program=$2
    shift 2
    echo "parts.sh: unpacking $name from Debian's packages" >&2
    mkdir -p "scratch/$name" "$name"
    (cd scratch/debs && apt-get -q -o APT::Sandbox::User=root download "$@") >> scratch/log 2>&1
    for package; do
        dpkg-deb -x "$(echo scratch/debs/"${package}"_*.deb)" "scratch/$name"
    done
    triplet=$(basename "$(dirname "$(ldd /bin/sh | sed -n 's/.*=> \(.*\/libc\.so\.6\).*/\1/p')")")
    install -D "scratch/$name$program" "$name$program"
    LD_LIBRARY_PATH="$PWD/scratch/$name/usr/lib/$triplet" ldd "scratch/$name$program" \
        | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' \
        | while read -r library; do
            case $library in
                "$PWD/scratch/$name"/*) install -D "$library" "$name/${library#"$PWD/scratch/$name/"}" ;;
                *) install -D "$library" "$name$library" ;;
            esac
        done
}

busybox
tree nginx /usr/sbin/nginx nginx
tree httpd /usr/sbin/apache2 apache2-bin libapr1 libaprutil1
for module in mpm_event authz_core dir; do
    install -D "scratch/httpd/usr/lib/apache2/modules/mod_$module.so" "httpd/usr/lib/apache2/modules/mod_$module.so"
done
mv httpd/usr/sbin/apache2 httpd/usr/sbin/httpd
rm -rf scratch
echo "$mark" > made-by
