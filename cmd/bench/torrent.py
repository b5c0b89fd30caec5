"""Two ends of a transfer with libtorrent 2.

torrent.py make TORRENT DIR                     makes TORRENT of DIR
torrent.py seed TORRENT DIR LISTEN              seeds it, and prints "seeding"
torrent.py fetch TORRENT DIR LISTEN PEER...     fetches it to DIR, and prints {"seconds": ..., "peak": ...}:
                                                   from reading TORRENT until all pieces are checked and
                                                   written to the page cache, and bytes of memory

LISTEN and PEER are ADDRESS:PORT.
"""
import json
import os
import sys
import time

import libtorrent as lt


def session(listen):
    settings = lt.high_performance_seed()
    settings.update({
        "listen_interfaces": listen,
        "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
        # TCP, in the clear. All machines of a loopback have one address.
        "allow_multiple_connections_per_ip": True,
        "enable_incoming_utp": False, "enable_outgoing_utp": False,
        "in_enc_policy": lt.enc_policy.disabled, "out_enc_policy": lt.enc_policy.disabled,
        # Deep pipelines, and a thread for each core.
        "max_out_request_queue": 5000, "max_allowed_in_request_queue": 5000, "request_queue_time": 10,
        "aio_threads": os.cpu_count(), "hashing_threads": os.cpu_count(),
        "max_queued_disk_bytes": 64 << 20,
        "alert_mask": lt.alert.category_t.status_notification | lt.alert.category_t.error_notification,
    })
    return lt.session(settings)


def make(torrent, top):
    """The files that an add takes: regular ones whose name does not start with a dot."""
    storage = lt.file_storage()
    for directory, folders, files in os.walk(top):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            path = os.path.join(directory, name)
            if not name.startswith(".") and not os.path.islink(path):
                inside = os.path.join(os.path.basename(top), os.path.relpath(path, top))
                storage.add_file(inside, os.path.getsize(path))
    # BitTorrent v1: v2 would pad each small file to a piece of its own.
    created = lt.create_torrent(storage, flags=lt.create_torrent.v1_only)
    lt.set_piece_hashes(created, os.path.dirname(top))
    with open(torrent, "wb") as f:
        f.write(lt.bencode(created.generate()))


def wait(s, handle, done):
    while True:
        s.wait_for_alert(1000)
        for alert in s.pop_alerts():
            if "error" in alert.what():
                sys.exit(f"libtorrent: {alert.message()}")
        if done(handle.status()):
            return


def peak():
    """Not ru_maxrss, which a process inherits from who started it."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("VmHWM:"))


def main():
    role, torrent, top = sys.argv[1:4]
    top = os.path.abspath(top)
    if role == "make":
        return make(torrent, top)
    s = session(sys.argv[4])
    while not s.listen_port():
        time.sleep(0.01)
    start = time.monotonic()
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if role == "seed":
        params.save_path = os.path.dirname(top)
        params.flags |= lt.torrent_flags.seed_mode
        handle = s.add_torrent(params)
        wait(s, handle, lambda status: status.is_seeding)
        print("seeding", flush=True)
        while True:
            s.wait_for_alert(60000)
            s.pop_alerts()
    params.save_path = top
    handle = s.add_torrent(params)
    peers = [peer.rsplit(":", 1) for peer in sys.argv[5:]]
    for address, port in peers:
        handle.connect_peer((address, int(port)))
    wait(s, handle, lambda status: status.is_seeding)
    seconds = time.monotonic() - start
    print(json.dumps({"seconds": seconds, "peak": peak()}), flush=True)


main()
