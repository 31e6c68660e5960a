#!/bin/sh
# tests/gpu_packages.sh DIR: download into DIR the Debian 12 packages that tests/gpu.sh unpacks on a machine that has a
# GPU and CUDA, but neither these nor a way to install them. About 21 MB.
set -eu

[ $# -eq 1 ] || {
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0"
    exit 2
}
mkdir -p "$1"
cd "$1"
apt-get download libaec0 libbrotli1 libcjson-dev libcjson1 libcom-err2 libcunit1 libcunit1-dev libcurl4 \
    libevent-core-2.1-7 libevent-pthreads-2.1-7 libffi8 libgmp10 libgnutls30 libgssapi-krb5-2 libhdf5-103-1 \
    libhdf5-dev libhdf5-hl-100 libhogweed6 libhwloc15 libidn2-0 libk5crypto3 libkeyutils1 libkrb5-3 \
    libkrb5support0 libldap-2.5-0 libltdl7 libmunge2 libnettle8 libnghttp2-14 libnl-3-200 libopenmpi-dev \
    libopenmpi3 libp11-kit0 libpcre2-16-0 libpcre2-32-0 libpcre2-8-0 libpcre2-dev libpcre2-posix3 libpkgconf3 \
    libpmix2 libpsl5 librtmp1 libsasl2-2 libssh2-1 libssl3 libsz2 libtasn1-6 libudev1 libunistring2 \
    libutf8proc-dev libutf8proc2 libxxhash-dev libxxhash0 libzstd1 openmpi-bin openmpi-common pkgconf \
    pkgconf-bin zlib1g
