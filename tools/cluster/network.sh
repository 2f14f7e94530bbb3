#!/bin/sh
# Make the network of all nodes, on which the control plane listens; run as the first process in its namespace, which
# then becomes the program that only waits. `network.sh ADDRESS/BITS PAUSE`
set -eu
ip link set lo up
ip link add nodes type bridge
ip address add "$1" dev nodes
ip link set nodes up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$2"
