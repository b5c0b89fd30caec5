package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"pollux/node/api"
)

// machine is one node of a test: a repository, and the daemon on it while it runs.
type machine struct {
	t    testing.TB
	name string
	repo string
	cmd  *exec.Cmd
	ready
}

// ready is what a daemon prints when it can serve.
type ready struct {
	Event   string
	Peer    string
	Addrs   []string
	Gateway string
}

func newMachine(t testing.TB, name string) *machine {
	return &machine{t: t, name: name, repo: filepath.Join(t.TempDir(), name)}
}

// start runs the daemon, which knows no address but via's, and waits until it is
// ready.
func (m *machine) start(via *machine, args ...string) *machine {
	m.t.Helper()
	bootstrap := "none"
	if via != nil {
		bootstrap = via.Addrs[0]
	}
	args = append([]string{"--repo", m.repo, "--json", "daemon", "--network", "test", "--bootstrap", bootstrap,
		"--listen", "/ip4/127.0.0.1/tcp/0", "--gateway", "127.0.0.1:0"}, args...)
	m.cmd = exec.Command("pollux", args...)
	m.cmd.Env = append(os.Environ(), "POLLUX_MDNS=false", "POLLUX_PORT_MAPPING=false")
	var stderr bytes.Buffer
	m.cmd.Stderr = &stderr
	stdout, err := m.cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		if m.cmd.ProcessState == nil {
			m.cmd.Process.Kill()
			m.cmd.Wait()
		}
		if m.t.Failed() {
			m.t.Logf("%s: %s", m.name, &stderr)
		}
	})
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		m.ready = ready{}
		if err := json.Unmarshal(lines.Bytes(), &m.ready); err != nil {
			m.t.Fatal(err)
		}
		if m.Event == "ready" {
			go io.Copy(io.Discard, stdout)
			return m
		}
	}
	m.cmd.Wait()
	m.t.Fatalf("%s ended before it was ready: %s", m.name, &stderr)
	return nil
}

// stop ends the daemon with a signal. Of SIGTERM it must end cleanly, and soon.
func (m *machine) stop(sig syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		m.t.Fatal(err)
	}
	kill := time.AfterFunc(5*time.Second, func() { m.cmd.Process.Kill() })
	err := m.cmd.Wait()
	if !kill.Stop() {
		m.t.Fatalf("%s runs on 5 seconds after %v", m.name, sig)
	}
	if sig == syscall.SIGTERM && err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
}

// run runs a command on the machine and decodes the JSON that it prints.
func (m *machine) run(into any, args ...string) {
	m.t.Helper()
	cmd := exec.Command("pollux", append([]string{"--repo", m.repo, "--json"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("%s: pollux %s: %v: %s", m.name, strings.Join(args, " "), err, &stderr)
	}
	if err := json.Unmarshal(out, into); err != nil {
		m.t.Fatalf("%s: pollux %s: %v in %q", m.name, strings.Join(args, " "), err, out)
	}
}

// status asks the daemon until ok is content with the answer.
func (m *machine) status(what string, ok func(api.Status) bool) api.Status {
	m.t.Helper()
	c, err := api.Dial(filepath.Join(m.repo, api.SocketName))
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	for {
		s, err := c.Status(ctx)
		if err != nil {
			m.t.Fatalf("%s: waiting until %s: %v", m.name, what, err)
		}
		if ok(s) {
			return s
		}
		time.Sleep(time.Millisecond) // the socket has no events to wait for
	}
}

// announced says whether every block of every site is.
func announced(s api.Status) bool {
	for _, site := range s.Sites {
		if site.State == api.StateWhole && s.Announce.Keys < site.Blocks {
			return false
		}
	}
	return s.Announce.Keys > 0 && s.Announce.Queued == 0
}

// read fetches a path of a site from the machine's gateway, on the site's own
// origin, as a browser does: following redirects.
func (m *machine) read(root, path string) (int, []byte) {
	m.t.Helper()
	gateway, err := url.Parse(m.Gateway)
	if err != nil {
		m.t.Fatal(err)
	}
	origin := root + ".ipfs.localhost:" + gateway.Port()
	client := http.Client{Transport: &http.Transport{
		Proxy: func(*http.Request) (*url.URL, error) { return gateway, nil }, // whatever resolves *.localhost
	}}
	defer client.CloseIdleConnections()
	u := url.URL{Scheme: "http", Host: origin, Path: "/" + path}
	resp, err := client.Get(u.String())
	if err != nil {
		m.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatalf("%s: %v", &u, err)
	}
	return resp.StatusCode, body
}

// TestMirror is the whole of it: a site added on one node is found over the DHT by
// a second that knows only a third, mirrored, and served when the first is gone; a
// fourth node mirrors it from the second alone.
//
// All but the third are clients of the DHT. Nodes do not get to know clients by
// themselves, so what they are found by are the provider records.
func TestMirror(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	writeSite(t, dir)
	want := readTree(t, dir)

	c := newMachine(t, "c").start(nil)
	a := newMachine(t, "a").start(c, "--dht", "client")
	var added api.AddResult
	a.run(&added, "add", dir)
	if added.Files < 1000 || added.NewBytes == 0 {
		t.Fatalf("added %+v", added)
	}
	a.status("all blocks are announced", announced)

	b := newMachine(t, "b").start(c, "--dht", "client")
	if s := b.status("it is there", func(api.Status) bool { return true }); s.Connections > 1 {
		t.Fatalf("the second node has %d connections before it looks for anything", s.Connections)
	}
	var followed api.FollowResult
	b.run(&followed, "follow", added.Root, "--wait")
	if followed.Root != added.Root || followed.Blocks != added.Blocks || followed.Peers != 1 || followed.Received == 0 {
		t.Errorf("added %+v, followed %+v", added, followed)
	}
	b.status("all blocks are announced", announced)
	a.stop(syscall.SIGTERM)

	for name, content := range want {
		switch {
		case name == ".":
			name, content = "", want["index.html"]
		case content == "/" && want[name+"/index.html"] != "":
			content = want[name+"/index.html"]
		case content == "/" || strings.HasPrefix(content, "-> "):
			continue // a listing, or what boxo makes of a symlink
		}
		if status, body := b.read(added.Root, name); status != http.StatusOK || string(body) != content {
			t.Errorf("gateway: %q: status %d, %d bytes; want %d", name, status, len(body), len(content))
		}
	}

	out := filepath.Join(t.TempDir(), "out")
	var got struct{ Received int64 }
	b.run(&got, "get", added.Root, "-o", out)
	wantSameTree(t, readTree(t, out), want)
	if got.Received != 0 {
		t.Errorf("get received %d bytes for what was there", got.Received)
	}

	d := newMachine(t, "d").start(c, "--dht", "client")
	d.run(&followed, "follow", added.Root, "--wait")
	if followed.Blocks != added.Blocks || followed.Peers != 1 {
		t.Errorf("the fourth node followed %+v", followed)
	}
	d.stop(syscall.SIGTERM)

	// Without a daemon, from the repository alone.
	out = filepath.Join(t.TempDir(), "out")
	d.run(&got, "get", added.Root, "-o", out)
	wantSameTree(t, readTree(t, out), want)
}

// TestProviderKilled kills one of three providers while a fourth node mirrors from
// them.
func TestProviderKilled(t *testing.T) {
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{1})
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		data := make([]byte, 16<<20)
		r.Read(data)
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	boot := newMachine(t, "boot").start(nil)
	var providers []*machine
	for _, name := range []string{"p1", "p2", "p3"} {
		m := newMachine(t, name).start(boot, dir)
		m.status("all blocks are announced", announced)
		providers = append(providers, m)
	}
	root := providers[0].status("the site is there", func(s api.Status) bool { return len(s.Sites) == 1 }).Sites[0].Root

	m := newMachine(t, "mirror").start(boot)
	var followed api.FollowResult
	m.run(&followed, "follow", root)
	m.status("the transfer is under way", func(s api.Status) bool {
		if s.Sites[0].MissingBlocks == 0 {
			t.Fatal("the transfer ended before a provider could be killed")
		}
		return s.Traffic.Received > 8<<20
	})
	// Whichever has sent most is the one to lose.
	var victim *machine
	var most int64
	for _, p := range providers {
		if sent := p.status("it answers", func(api.Status) bool { return true }).Traffic.Sent; sent > most {
			victim, most = p, sent
		}
	}
	victim.stop(syscall.SIGKILL)
	s := m.status("the mirror is whole", func(s api.Status) bool { return s.Sites[0].State == api.StateWhole })
	t.Logf("the victim had sent %d bytes; the mirror received %d", most, s.Traffic.Received)
	out := filepath.Join(t.TempDir(), "out")
	var got struct{ Received int64 }
	m.run(&got, "get", root, "-o", out)
	wantSameTree(t, readTree(t, out), readTree(t, dir))
}

// TestMirrorKilled kills a mirror in the middle of a transfer. What it had stored by then
// does not come again.
func TestMirrorKilled(t *testing.T) {
	dir := t.TempDir()
	r := rand.NewChaCha8([32]byte{2})
	const files, size = 16, 16 << 20
	for i := range files {
		data := make([]byte, size)
		r.Read(data)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	seed := newMachine(t, "seed").start(nil, dir)
	root := seed.status("the site is there", func(s api.Status) bool { return len(s.Sites) == 1 }).Sites[0].Root
	m := newMachine(t, "mirror").start(seed)
	m.run(new(api.FollowResult), "follow", root)
	s := m.status("the transfer is under way", func(s api.Status) bool {
		if s.Sites[0].State == api.StateWhole {
			t.Fatal("the transfer ended before the mirror could be killed")
		}
		return s.Store.Bytes > 32<<20
	})
	m.stop(syscall.SIGKILL)
	m.start(seed)
	var followed api.FollowResult
	m.run(&followed, "follow", root, "--wait")
	if missing := files*size - s.Store.Bytes; followed.Received > missing+missing/100 {
		t.Errorf("%d bytes were received, though at most %d were missing", followed.Received, missing)
	}
	out := filepath.Join(t.TempDir(), "out")
	m.run(new(api.FetchResult), "get", root, "-o", out)
	wantSameTree(t, readTree(t, out), readTree(t, dir))
}

// TestRestart ends a daemon gently and not so gently: what it acknowledged is
// there after the restart, and announced again to a network that has forgotten it.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "site")
	writeSite(t, dir)
	a := newMachine(t, "a").start(nil)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(sig.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		var added api.AddResult
		a.run(&added, "add", dir)
		unknown := "bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
		a.run(new(api.FollowResult), "follow", unknown)
		a.stop(sig)
		boot := newMachine(t, "boot").start(nil)
		a.start(boot)
		s := a.status("all blocks are announced", announced)
		var kept, followed bool
		for _, site := range s.Sites {
			kept = kept || site.Root == added.Root && site.State == api.StateWhole
			followed = followed || site.Root == unknown && site.State == api.StateWaiting
		}
		if !kept || !followed {
			t.Errorf("after %v: sites %+v", sig, s.Sites)
		}
		b := newMachine(t, "b").start(boot)
		var got api.FollowResult
		b.run(&got, "follow", added.Root, "--wait")
		if got.Blocks != added.Blocks {
			t.Errorf("after %v: mirrored %+v of %+v", sig, got, added)
		}
	}
}
