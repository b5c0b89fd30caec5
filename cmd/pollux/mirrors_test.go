package main

import (
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pollux/node/api"
)

// TestMirrorsGone has a mirror that was announced be killed: it is shown as unreachable, by
// a node that got to know of the mirrors through the DHT alone, and if it is all there is
// the command says so.
func TestMirrorsGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	writeSite(t, dir)
	boot := newMachine(t, "boot").start(nil)
	a := newMachine(t, "a").start(boot, "--dht", "client")
	var added api.AddResult
	a.run(&added, "add", dir)
	a.status("all blocks are announced", announced)
	b := newMachine(t, "b").start(boot, "--dht", "client")
	b.run(new(api.FollowResult), "follow", added.Root, "--wait")
	b.status("all blocks are announced", announced)

	asker := newMachine(t, "asker").start(boot, "--dht", "client")
	states := func(want map[string]string, code int) {
		t.Helper()
		out, err := exec.Command("pollux", "--repo", asker.repo, "--json", "mirrors", added.Root).Output()
		var exit *exec.ExitError
		if got := 0; errors.As(err, &exit) {
			if got = exit.ExitCode(); got != code {
				t.Errorf("exit code %d, want %d: %s", got, code, exit.Stderr)
			}
		} else if err != nil || code != 0 {
			t.Errorf("want exit code %d, got %v", code, err)
		}
		var res struct{ Mirrors []mirror }
		if err := json.Unmarshal(out, &res); err != nil {
			t.Fatalf("%v in %q", err, out)
		}
		got := make(map[string]string)
		for _, m := range res.Mirrors {
			got[m.Peer] = m.State
			if (m.RTTMS > 0) != (m.State != api.MirrorUnreachable) || m.Version != 0 ||
				!slices.ContainsFunc(m.Addrs, func(s string) bool { return strings.HasSuffix(s, "/p2p/"+m.Peer) }) {
				t.Errorf("%+v", m)
			}
		}
		if len(got) != len(want) || got[a.Peer] != want[a.Peer] || got[b.Peer] != want[b.Peer] {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	states(map[string]string{a.Peer: api.MirrorFull, b.Peer: api.MirrorFull}, 0)
	b.stop(syscall.SIGKILL)
	states(map[string]string{a.Peer: api.MirrorFull, b.Peer: api.MirrorUnreachable}, 0)
	a.stop(syscall.SIGKILL)
	states(map[string]string{a.Peer: api.MirrorUnreachable, b.Peer: api.MirrorUnreachable}, exitUnreachable)
}
