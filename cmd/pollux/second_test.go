package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gofrs/flock"

	"pollux/node/api"
)

// TestRepositoryInUse has another process hold the repository that is no daemon and does
// not end: nothing is done, and the error says what to do.
func TestRepositoryInUse(t *testing.T) {
	quiet(t)
	m := newMachine(t, "m")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.run(new(api.AddResult), "add", file)
	other := flock.New(filepath.Join(m.repo, "lock"))
	if ok, err := other.TryLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	defer other.Close()
	before := contents(t, m.repo)
	var commands sync.WaitGroup
	for _, args := range [][]string{{"daemon"}, {"add", file}, {"status"}, {"gc"}} {
		commands.Go(func() {
			m.wantRefused("repository "+m.repo+" is in use by another process; stop that one first, or choose another with --repo", args...)
		})
	}
	commands.Wait()
	wantSameTree(t, contents(t, m.repo), before)
}

// TestManyProcesses starts adds at the same time, without a daemon and with one. Each
// gets its turn, and all that they acknowledged is there. A second daemon does not.
func TestManyProcesses(t *testing.T) {
	quiet(t)
	m := newMachine(t, "m")
	dir := t.TempDir()
	roots := make([]string, 8)
	add := func(from, to int) {
		t.Helper()
		var adds sync.WaitGroup
		for i := from; i < to; i++ {
			path := filepath.Join(dir, string(rune('a'+i)))
			if err := os.WriteFile(path, []byte(path), 0o644); err != nil {
				t.Fatal(err)
			}
			adds.Go(func() {
				out, err := exec.Command("pollux", "--repo", m.repo, "--json", "add", path).CombinedOutput()
				var added api.AddResult
				if err != nil || json.Unmarshal(out, &added) != nil {
					t.Errorf("add: %v: %s", err, out)
				}
				roots[i] = added.Root
			})
		}
		adds.Wait()
	}
	add(0, 4)
	m.start(nil)
	m.wantRefused("is in use by another process", "daemon")
	add(4, 8)
	s := m.status("it answers", func(api.Status) bool { return true })
	for _, root := range roots {
		if !slices.ContainsFunc(s.Sites, func(s api.Site) bool { return s.Root == root && s.State == api.StateWhole }) {
			t.Errorf("%s was acknowledged and is not there", root)
		}
	}
}

// quiet keeps the commands of a test off the network.
func quiet(t *testing.T) {
	for _, v := range testEnv {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	t.Setenv("POLLUX_MIN_FREE", "0") // their disks are small
}

// contents returns the bytes of all files below dir, by path.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// refused runs a command that must fail with an error, which it returns.
func (m *machine) refused(args ...string) string {
	m.t.Helper()
	cmd := exec.Command("pollux", append([]string{"--repo", m.repo}, args...)...)
	out, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != exitError {
		m.t.Errorf("pollux %s exited with %d (%v), want %d: %s", strings.Join(args, " "), code, err, exitError, out)
	}
	return string(out)
}

// wantRefused is refused for an error that has to contain text.
func (m *machine) wantRefused(text string, args ...string) {
	m.t.Helper()
	if out := m.refused(args...); !strings.Contains(out, text) {
		m.t.Errorf("pollux %s says %q, want %q in it", strings.Join(args, " "), out, text)
	}
}
