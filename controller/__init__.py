"""virtsync: Git says which libvirt VMs are on, and the cluster tells what they really do.

    libvirtd ──events──▶ native thread ──uuid──▶ ┌───────────┐            ┌ observe  hypervisor/ (libvirt)
    API server ──watch──▶ kopf ──────────key───▶ │ workqueue │──key──▶ pass│ decide   decide.py   (pure)
    timers: relist, settle, backoff, deadline ─▶ └───────────┘            │ report   kube/store.py (status PATCH)
                                                                          └ act      acting.py (a thread for each)

Two ideas carry everything. Events carry only a name: whoever sees something says `queue.add(key)`, and the pass looks
for itself. The report goes out before the act: it is the record of what is about to be done, and then we look again.

Read in this order:

    model.py       the words: what is wanted, seen, reported, done; errors.py: the ways in which the world says no
    reconcile.py   the pass, and the protocols through which it sees the world
    decide.py      the policy: one row of a table for every look; with vetoes.py (nothing is done), patience.py (not
                   yet) and stopping.py (politely)
    situation.py   what a look means, in the light of the report before; with causes.py (why a VM stopped), starts.py
                   (what has become of a recorded start) and handover.py (what the report of another host says)
    status.py      from a verdict to the conditions that users read; with codec.py, to and from JSON; words.py makes the
                   words of others harmless
    workqueue.py   a key is never twice in the queue and never in two hands; directory.py: which object is which domain
    acting.py      the acts under way, each on a thread of its own; pacing.py: the brake and the pace of a node
    resync.py      the truth, asked for now and then; outage.py: what to do while the API server is away, and after;
                   retry.py: the one policy for repeating a call
    leasing.py     whose the Lease of a node is; contest.py: another machine under the name of this node
    app.py         joins everything; cli.py, settings.py, logs.py, metrics.py, health.py: what an operator sees

    hypervisor/    libvirt and nothing else
      connection.py  the connections, in generations, with lanes.py (one call at a time each) and events.py (what
                     libvirt calls back with)
      host.py        looks, lists and acts; with states.py and words.py, libvirt's numbers and words in ours
      lock.py        the lock of whoever acts on a libvirt; pidfiles.py: the lock by which a QEMU shows that it lives
    kube/          the API server and nothing else
      config.py      the one client; with access.py (how and as whom), kubeconfig.py and proxies.py (who says so) and
                     credentials.py (read again)
      store.py       the objects of this node; watch.py tells of their changes, and sight.py whether it sees any
      lease.py       keeps the Lease; events.py writes Kubernetes Events
"""

__version__ = "0.1.0"
