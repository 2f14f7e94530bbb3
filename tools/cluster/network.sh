#!/bin/sh
# Make the network of all nodes, on which the control plane listens; run as the first process in its namespace, which
# then becomes the program that only waits. `network.sh ADDRESS/BITS PAUSE`
set -eu
ip link set lo up
# A bridge without an address of its own takes one from its ports, so a node that goes would cut off the others.
ip link add nodes address 02:00:00:00:00:01 type bridge
ip address add "$1" dev nodes
ip link set nodes up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec "$2"
