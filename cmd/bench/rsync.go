//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// rsync copies the site, or its next version onto a copy of it, from an rsync daemon
// with compression.
func rsync(ctx context.Context, w *world, _ results) (measure, error) {
	if _, err := exec.LookPath("rsync"); err != nil {
		return measure{}, skipError("no rsync (Debian's package is rsync)")
	}
	seed, mirror := w.seeds[0], w.mirrors[0]
	from, copied := w.site, filepath.Join(w.dir, "copy")
	if w.next != "" {
		from = w.next
		if _, err := mirror.exec(ctx, "cp", "-a", w.site, copied); err != nil {
			return measure{}, err
		}
	}
	config := filepath.Join(w.dir, "rsyncd.conf")
	module := fmt.Sprintf("use chroot = no\nuid = 0\ngid = 0\n[site]\npath = %s\nread only = yes\n", from)
	if err := os.WriteFile(config, []byte(module), 0o600); err != nil {
		return measure{}, err
	}
	const port = "8730"
	daemon, err := seed.begin(nil, "rsync", "--daemon", "--no-detach", "--config="+config,
		"--address="+seed.addr.String(), "--port="+port, "--log-file=/dev/stderr")
	if err != nil {
		return measure{}, err
	}
	address := net.JoinHostPort(seed.addr.String(), port)
	if err := seed.awaitListener(ctx, daemon, address); err != nil {
		return measure{}, err
	}
	meter, err := w.meter()
	if err != nil {
		return measure{}, err
	}
	if _, err := mirror.exec(ctx, "rsync", "-az", "--delete", "--exclude=.*", "rsync://"+address+"/site/", copied+"/"); err != nil {
		return measure{}, err
	}
	return meter.read()
}

// awaitListener waits until a server on the machine accepts connections.
func (m *machine) awaitListener(ctx context.Context, server *process, address string) error {
	for {
		err := m.ns.do(func() error {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err
		})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: waiting for %s: %w", m.name, address, context.Cause(ctx))
		case <-server.done:
			return fmt.Errorf("%s: no server at %s: %v: %s", m.name, address, server.err, lastLine(server.stderr.String()))
		case <-time.After(10 * time.Millisecond):
		}
	}
}
