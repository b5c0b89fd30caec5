//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"pollux/node/api"
)

// world is what one measurement runs in: machines on a network of their own, with
// empty repositories in a directory of its own. Nothing outlives close.
type world struct {
	scenario *scenario
	bin      string // the pollux program
	dir      string
	sites
	seeds   []*machine
	mirrors []*machine
	hostile *machine // of the peers that do harm; nil unless the scenario has some

	wan        *wan // nil on loopback
	namespaces []*netns
	mu         sync.Mutex // guards processes: commands run at the same time
	processes  []*process
}

// sites are the directories that a scenario is about.
type sites struct {
	site  string // that the seeds hold
	next  string // its next version; "" unless the scenario has one
	other string // a second one, that the seeds hold as well; "" unless the scenario has one
}

// find finds or makes those of s.
func (d *sites) find(s *scenario, from, scratch string) (err error) {
	for _, one := range []struct {
		source source
		dir    *string
	}{{s.site, &d.site}, {s.next, &d.next}, {s.other, &d.other}} {
		if one.source != nil && err == nil {
			*one.dir, err = one.source(from, scratch)
		}
	}
	return err
}

// machine is one node. On loopback, all share a namespace.
type machine struct {
	world  *world
	name   string
	ns     *netns
	addr   netip.Addr
	end    *endpoint // nil on loopback
	repo   string
	daemon *process // once start was called
	ready
	root  string   // of the last site that was added
	roots []string // of those that it began with, in order
}

// ready is what a daemon prints when it can serve.
type ready struct {
	Event   string
	Addrs   []string
	Gateway string
}

// newWorld makes a world for one run of s. The caller closes it, also after an error.
func newWorld(s *scenario, r *run, bin string) (*world, error) {
	w := &world{scenario: s, bin: bin}
	var err error
	if w.dir, err = os.MkdirTemp("", "pollux-bench-"); err != nil {
		return w, err
	}
	if s.rtt > 0 {
		w.wan = newWAN(s.rtt, s.loss)
	}
	for i, line := range r.seeds {
		m, err := w.machine(fmt.Sprint("seed", i+1), line)
		if err != nil {
			return w, err
		}
		w.seeds = append(w.seeds, m)
	}
	for i, line := range r.mirrors {
		m, err := w.machine(fmt.Sprint("mirror", i+1), line)
		if err != nil {
			return w, err
		}
		w.mirrors = append(w.mirrors, m)
	}
	if s.hostile != (rates{}) {
		if w.hostile, err = w.machine("hostile", s.hostile); err != nil {
			return w, err
		}
	}
	if w.wan != nil {
		w.wan.start()
	}
	return w, nil
}

func (w *world) machine(name string, line rates) (*machine, error) {
	m := &machine{world: w, name: name, repo: filepath.Join(w.dir, name), addr: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	if w.wan == nil && len(w.namespaces) > 0 {
		m.ns = w.namespaces[0]
		return m, nil
	}
	var err error
	if m.ns, err = newNetns(); err != nil {
		return nil, err
	}
	w.namespaces = append(w.namespaces, m.ns)
	if w.wan == nil {
		return m, nil
	}
	if m.end, err = w.wan.join(m.ns, line); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	m.addr = m.end.addr
	return m, nil
}

// close ends all processes and removes all that the world made.
func (w *world) close() error {
	w.mu.Lock()
	for _, p := range w.processes {
		select {
		case <-p.done: // its number may be another's by now
		default:
			syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		}
	}
	w.mu.Unlock()
	for _, p := range w.processes {
		<-p.done
	}
	if w.wan != nil {
		w.wan.close()
	}
	for _, ns := range w.namespaces {
		ns.close()
	}
	return os.RemoveAll(w.dir)
}

// start runs the machine's daemon, which knows no address but via's, and seeds dirs
// first. The first seed is the DHT; the others only ask it, as nodes behind routers
// do, or the few nodes of a scenario would have to keep all records of each other.
func (m *machine) start(ctx context.Context, via *machine, dirs ...string) (err error) {
	args := []string{"--repo", m.repo, "--json", "daemon", "--network", "bench",
		"--listen", fmt.Sprintf("/ip4/%s/tcp/0", m.addr), "--gateway", "127.0.0.1:0"}
	if via == nil {
		args = append(args, "--bootstrap", "none", "--dht", "server")
	} else {
		args = append(args, "--bootstrap", via.Addrs[0], "--dht", "client")
	}
	m.daemon, err = m.serve(ctx, func(line string) bool {
		var added struct{ Event, Root string }
		if json.Unmarshal([]byte(line), &added) == nil && added.Event == "added" {
			m.root = added.Root
			m.roots = append(m.roots, added.Root)
		}
		return json.Unmarshal([]byte(line), &m.ready) == nil && m.Event == "ready"
	}, m.world.bin, append(args, dirs...)...)
	return err
}

// startAll runs the daemons: the seeds, which hold the sites, and then the mirrors.
func startAll(ctx context.Context, w *world) error {
	first, sites := w.seeds[0], []string{w.site}
	if w.other != "" {
		sites = append(sites, w.other)
	}
	if err := first.start(ctx, nil, sites...); err != nil {
		return err
	}
	for _, m := range w.seeds[1:] {
		if err := m.start(ctx, first, sites...); err != nil {
			return err
		}
	}
	for _, m := range w.mirrors {
		if err := m.start(ctx, first); err != nil {
			return err
		}
	}
	return w.settle(ctx)
}

// settle waits until the network is quiet: everyone but the first seed, which is the DHT
// and has nobody to tell, is connected, has announced what it has, and that has arrived.
func (w *world) settle(ctx context.Context) error {
	for _, m := range w.machines()[1:] {
		if err := m.settle(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	const quiet = 8 << 10 // bytes in two round trips: less than that has no end
	for range 10 {        // hostile peers may keep the seeds busy
		before, _, err := w.traffic()
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * w.scenario.rtt):
		}
		after, _, err := w.traffic()
		if err != nil || after-before < quiet {
			return err
		}
	}
	return nil
}

func (m *machine) settle(ctx context.Context) error {
	c, err := api.Dial(filepath.Join(m.repo, api.SocketName))
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		s, err := c.Status(ctx)
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		// Nothing is queued either before a node knows whom to tell.
		a := s.Announce
		if s.Connections > 0 && a.Queued == 0 && a.Announced >= a.Keys {
			return nil
		}
		time.Sleep(10 * time.Millisecond) // there is no event to wait for
	}
}

// port is first or one after it, another on each machine: those of a loopback have one address.
func (m *machine) port(first int) int { return first + slices.Index(m.world.machines(), m) }

// machines are all, the first seed first.
func (w *world) machines() []*machine { return slices.Concat(w.seeds, w.mirrors) }
