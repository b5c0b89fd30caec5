package main

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"pollux/dag"
	"pollux/node/api"
)

// TestKill kills the program 200 times, at its n-th change to the files of one
// repository, in the middle of whatever it does: add, import, unfollow or gc, with
// and without a daemon. It starts after each kill, and what it acknowledged is there,
// byte for byte.
func TestKill(t *testing.T) {
	const kills = 200
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	k := newKiller(t, rand.New(rand.NewPCG(seed, 0)))
	for k.kills < kills {
		if k.daemon == nil && k.rand.IntN(25) == 0 {
			k.daemon = k.machine.start(nil)
		}
		k.round()
		if k.rounds%50 == 0 {
			k.verify(3)
		}
	}
	k.verify(len(k.sites))
	t.Logf("%d rounds, %d kills, of them %d of a daemon and %d before there was a result; %d sites",
		k.rounds, k.kills, k.daemonKills, k.midway, len(k.sites))
	if k.midway < kills/2 {
		t.Errorf("only %d of %d kills hit a command that was not done", k.midway, kills)
	}
}

// killer keeps what a repository must hold, whatever happened to the program.
type killer struct {
	t       *testing.T
	rand    *rand.Rand
	machine *machine
	daemon  *machine // the machine while its daemon runs, or nil
	scratch string   // directory for trees
	watch   *watch
	cars    []car

	// sites are the directories that must be there, by root. A site whose removal was
	// cut short is in unsure too: it may be gone.
	sites   map[string]string
	unsure  map[string]bool
	changes map[string]int // how many the last run that came through made, by command

	rounds, kills, daemonKills, midway int
}

type car struct{ root, dir, path string }

func newKiller(t *testing.T, r *rand.Rand) *killer {
	for _, v := range testEnv {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	scratch := t.TempDir()
	if dir, err := os.MkdirTemp("/dev/shm", "pollux-kill"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		scratch = dir
	}
	k := &killer{
		t: t, rand: r, scratch: scratch,
		machine: &machine{t: t, name: "killed", repo: filepath.Join(scratch, "repo")},
		sites:   make(map[string]string), unsure: make(map[string]bool), changes: make(map[string]int),
	}
	other := &machine{t: t, name: "other", repo: filepath.Join(scratch, "other")}
	for range 4 {
		c := car{dir: k.tree()}
		var added api.AddResult
		other.run(&added, "add", c.dir)
		c.root, c.path = added.Root, c.dir+".car"
		other.run(new(struct{}), "export", c.root, "-o", c.path)
		k.cars = append(k.cars, c)
	}
	k.machine.run(new(api.Status), "status") // makes the directories to watch
	k.watch = newWatch(t, k.machine.repo, filepath.Join(k.machine.repo, "blocks"))
	return k
}

// tree makes a directory of some small files, or of a large one. All trees together are
// few megabytes, since each start reads the pack that the last one left.
func (k *killer) tree() string {
	k.t.Helper()
	dir, err := os.MkdirTemp(k.scratch, "tree")
	if err != nil {
		k.t.Fatal(err)
	}
	files, limit := 1+k.rand.IntN(20), 4<<10
	if k.rand.IntN(12) == 0 {
		files, limit = 1, 2<<20
	}
	noise := rand.NewChaCha8([32]byte{byte(k.rounds), byte(k.rounds >> 8), byte(len(k.cars)), 1})
	for i := range files {
		data := make([]byte, k.rand.IntN(limit))
		noise.Read(data[:len(data)/2]) // and half compresses
		path := filepath.Join(dir, fmt.Sprint("folder", i%3), fmt.Sprint("file", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			k.t.Fatal(err)
		}
	}
	return dir
}

// round runs one command, and kills it, or the daemon that does its work.
func (k *killer) round() {
	k.rounds++
	switch n := k.rand.IntN(20); {
	case n < 2:
		k.run("gc", nil)
	case n < 5 && len(k.sites)-len(k.unsure) > 5:
		roots := slices.DeleteFunc(sortedKeys(k.sites), func(root string) bool { return k.unsure[root] })
		root := roots[k.rand.IntN(len(roots))]
		k.unsure[root] = true
		if k.run("unfollow", nil, root) {
			delete(k.sites, root)
			delete(k.unsure, root)
		}
	case n < 8:
		c := k.cars[k.rand.IntN(len(k.cars))]
		if k.run("import", new(api.ImportResult), c.path) {
			k.sites[c.root] = c.dir
			delete(k.unsure, c.root)
		}
	default:
		var added api.AddResult
		if dir := k.tree(); k.run("add", &added, dir) {
			k.sites[added.Root] = dir
		}
	}
}

// run runs a command, kills the process that does the work at one of the next changes
// to the repository, and says whether the command acknowledged all the same.
func (k *killer) run(command string, result any, args ...string) (acknowledged bool) {
	k.t.Helper()
	cmd := exec.Command("pollux", append([]string{"--repo", k.machine.repo, "--json", command}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// Now and then it is to come through, which also shows how many changes it makes.
	const never = 1 << 30
	at := k.rand.IntN(cmp.Or(k.changes[command], 8)) + 1
	if k.rand.IntN(20) == 0 {
		at = never
	}
	victim := cmd
	daemon := k.daemon
	if daemon != nil {
		victim = daemon.cmd
	}
	pause := time.Duration(k.rand.IntN(500)) * time.Microsecond // into the work behind the change
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	stop := k.watch.at(at, func() {
		time.Sleep(pause)
		victim.Process.Kill()
	})
	err := cmd.Wait()
	seen, killed := stop()
	if at == never {
		k.changes[command] = seen
	}
	if daemon != nil && killed {
		k.daemon = nil
		k.daemonKills++
		daemon.cmd.Wait()
	}
	if daemon == nil {
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		killed = status.Signaled() && status.Signal() == syscall.SIGKILL // it may have been over before
	}
	if err != nil && !killed {
		k.t.Fatalf("round %d: pollux %s: %v: %s", k.rounds, command, err, &stderr)
	}
	if result == nil {
		result = new(map[string]any)
	}
	acknowledged = json.Unmarshal(stdout.Bytes(), result) == nil
	if err == nil && !acknowledged {
		k.t.Fatalf("round %d: pollux %s printed %q", k.rounds, command, &stdout)
	}
	if killed {
		k.kills++
		if !acknowledged {
			k.midway++
		}
	}
	return acknowledged
}

// verify starts the program and checks all that it must hold, and reads n sites.
func (k *killer) verify(n int) {
	k.t.Helper()
	if k.daemon != nil {
		k.daemon.stop(syscall.SIGTERM)
		k.daemon = nil
	}
	var st api.Status
	k.machine.run(&st, "status")
	listed := make(map[string]bool)
	for _, s := range st.Sites {
		listed[s.Root] = s.State == api.StateWhole
		if _, ok := k.sites[s.Root]; !ok {
			k.sites[s.Root] = k.source(s) // stored, and killed before it could say so
		}
	}
	for root := range k.sites {
		switch {
		case listed[root]:
			delete(k.unsure, root)
		case k.unsure[root]:
			delete(k.sites, root)
			delete(k.unsure, root)
		default:
			k.t.Errorf("after %d kills site %s is gone, or not whole", k.kills, root)
		}
	}
	var check api.CheckResult
	k.machine.run(&check, "check", "--data")
	if check.Damaged != 0 {
		k.t.Errorf("after %d kills: %+v", k.kills, check)
	}
	k.daemon = k.machine.start(nil)
	client, err := api.Dial(filepath.Join(k.machine.repo, api.SocketName))
	if err != nil {
		k.t.Fatal(err)
	}
	defer client.Close()
	roots := sortedKeys(k.sites)
	k.rand.Shuffle(len(roots), func(i, j int) { roots[i], roots[j] = roots[j], roots[i] })
	for _, root := range roots[:min(n, len(roots))] {
		out := filepath.Join(k.scratch, "out")
		if _, err := dag.Extract(k.t.Context(), blocks{client, longest}, cid.MustParse(root), out, dag.ExtractOptions{}); err != nil {
			k.t.Errorf("after %d kills: %v", k.kills, err)
			continue
		}
		wantSameTree(k.t, readTree(k.t, out), readTree(k.t, k.sites[root]))
		os.RemoveAll(out)
	}
	if k.t.Failed() {
		k.t.FailNow()
	}
	k.daemon.stop(syscall.SIGTERM)
	k.daemon = nil
}

// source returns the directory that a site comes from.
func (k *killer) source(s api.Site) string {
	for _, c := range k.cars {
		if c.root == s.Root {
			return c.dir
		}
	}
	return s.Name
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys) // so that a seed says which is drawn
	return keys
}

// watch counts the changes to the files of some directories as they are made.
type watch struct {
	events *os.File

	mu   sync.Mutex
	seen int    // since at
	due  int    // how many of them until then is called
	then func() // nil once it ran
}

func newWatch(t *testing.T, dirs ...string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	w := &watch{events: os.NewFile(uintptr(fd), "inotify")}
	for _, dir := range dirs {
		if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_MODIFY|unix.IN_MOVED_TO|unix.IN_DELETE); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		w.events.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, err := w.events.Read(buf)
			if err != nil {
				return
			}
			for pos := 0; pos < n; pos += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[pos+12:])) {
				w.count()
			}
		}
	}()
	return w
}

func (w *watch) count() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen++
	if w.then != nil && w.seen >= w.due {
		w.then()
		w.then = nil
	}
}

// at has then called at the n-th change from now on, once. stop ends that, and says how
// many changes there were and whether then was called.
func (w *watch) at(n int, then func()) (stop func() (seen int, called bool)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.due, w.then = 0, n, then
	return func() (int, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		called := w.then == nil
		w.then = nil
		return w.seen, called
	}
}
