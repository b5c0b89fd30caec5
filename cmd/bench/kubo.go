//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// kuboProgram is Kubo: a daemon on each machine, all mirrors connected to all seeds. A mirror
// pins.
var kuboProgram = program{start: startKubo, add: addKubo, fetch: pin}

// ipfs runs a command of Kubo and returns the last line that it prints.
func (m *machine) ipfs(ctx context.Context, args ...string) (string, error) {
	out, err := m.exec(ctx, "ipfs", append([]string{"--repo-dir", m.repo}, args...)...)
	return lastLine(out), err
}

func startKubo(ctx context.Context, w *world) error {
	if _, err := exec.LookPath("ipfs"); err != nil {
		return skipError("no Kubo (go install github.com/ipfs/kubo/cmd/ipfs@v0.42.0)")
	}
	for _, m := range w.machines() {
		if err := m.startKubo(ctx); err != nil {
			return err
		}
	}
	for _, seed := range w.seeds {
		if err := seed.addKubo(ctx, w.site); err != nil {
			return err
		}
		id, err := seed.ipfs(ctx, "id", "--format=<id>")
		if err != nil {
			return err
		}
		for _, m := range w.mirrors {
			if _, err := m.ipfs(ctx, "swarm", "connect", seed.kuboAddr()+"/p2p/"+id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *machine) kuboAddr() string { return fmt.Sprintf("/ip4/%s/tcp/%d", m.addr, m.port(4001)) }

// startKubo runs a machine's daemon. The profile is the one that keeps a node to itself:
// no bootstrap, no mDNS, no port mapping. Nobody has to be looked for, so there is no DHT.
func (m *machine) startKubo(ctx context.Context) error {
	for _, args := range [][]string{
		{"init", "--empty-repo", "--profile=test"},
		{"config", "--json", "Addresses.Swarm", fmt.Sprintf("[%q]", m.kuboAddr())},
		{"config", "Routing.Type", "none"},
	} {
		if _, err := m.ipfs(ctx, args...); err != nil {
			return err
		}
	}
	var err error
	m.daemon, err = m.serve(ctx, func(line string) bool {
		if _, at, ok := strings.Cut(line, "Gateway server listening on /ip4/127.0.0.1/tcp/"); ok {
			m.Gateway = "http://127.0.0.1:" + at
		}
		return line == "Daemon is ready"
	}, "ipfs", "--repo-dir", m.repo, "daemon")
	return err
}

func (m *machine) addKubo(ctx context.Context, dir string) (err error) {
	m.root, err = m.ipfs(ctx, "add", "--recursive", "--quieter", "--cid-version=1", filepath.Clean(dir))
	return err
}

func addKubo(ctx context.Context, w *world) error { return w.seeds[0].addKubo(ctx, w.next) }

// pin has a mirror fetch and keep the site that the first seed added last.
func pin(ctx context.Context, w *world, m *machine) (fetched, error) {
	_, err := m.ipfs(ctx, "pin", "add", "--progress=false", w.seeds[0].root)
	return fetched{}, err
}
