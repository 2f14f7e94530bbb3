"""virtsync: Git says which libvirt VMs are on, and the cluster tells what they really do.

    libvirtd ──events──▶ native thread ──uuid──▶ ┌───────────┐            ┌ observe  hypervisor/ (libvirt)
    API server ──watch──▶ kopf ──────────key───▶ │ workqueue │──key──▶ pass│ decide   policy/     (pure)
    timers: relist, settle, backoff, deadline ─▶ └───────────┘            │ report   kube/store.py (status PATCH)
                                                                          └ act      agent/acting.py (a thread for each)

Two ideas carry everything. Events carry only a name: whoever sees something says `queue.add(key)`, and the pass looks
for itself. The report goes out before the act: it is the record of what is about to be done, and then we look again.

The packages, each of which may import those below it:

    cli/           what people type
    agent/         the process of a node
      app.py         joins everything; settings.py: its settings
      reconcile.py   the pass, and the protocols through which it sees the world
      acting.py      the acts under way, each on a thread of its own; pacing.py: the brake and the pace of a node
      domain_index.py  which object is which domain
      outage.py      what to do while the API server is away, and after
      node_conflict.py  another machine under the name of this node
      metrics.py     what Prometheus is told
    kube/          the API server and nothing else
      client.py      the one client; with access.py (how and as whom), kubeconfig.py and proxies.py (who says so) and
                     credentials.py (read again)
      store.py       the objects of this node; watch.py tells of their changes, and watch_health.py whether it sees any
      lease.py       keeps the Lease; events.py writes Kubernetes Events
    hypervisor/    libvirt and nothing else
      connection.py  the connections, in generations, with pool.py (one call at a time each) and events.py (what libvirt
                     calls back with)
      host.py        looks, lists and acts; with states.py and text.py, libvirt's numbers and words in ours
      host_lock.py   the lock of whoever acts on a libvirt; pidfiles.py: the lock by which a QEMU shows that it lives
    runtime/       machinery that knows no VM
      workqueue.py   a key is never twice in the queue and never in two hands; periodic.py: what is done now and then
      retry.py       the one policy for repeating a call; errors.py: the ways in which the world says no
      health.py, logs.py  what an operator sees
    policy/        decisions from values alone
      decide.py      one row of a table for every look; with vetoes.py (nothing is done), gates.py (not yet) and
                     stopping.py (politely)
      situation.py   what a look means, in the light of the report before; with stops.py (why a VM stopped), starts.py
                     (what has become of a recorded start) and handover.py (what the report of another host says)
      conclusion.py  from a verdict to the conditions that users read
      leases.py      whose the Lease of a node is
    api/           the contract with users
      virtualmachine.py  the words: what is wanted, seen, reported, done
      codec.py       to and from JSON; text.py makes the words of others harmless; values.py copies values
"""

__version__ = "0.1.0"
