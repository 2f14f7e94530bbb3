#!/bin/sh
# The network that all nodes are plugged into, and the control plane listens on; run as the first process in it. Then it
# becomes the program that only waits. `network.sh ADDRESS/BITS PAUSE`
set -eu
ip link set lo up
ip link add nodes type bridge
ip address add "$1" dev nodes
ip link set nodes up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$2"
