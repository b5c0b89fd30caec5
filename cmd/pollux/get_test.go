package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"pollux/blockstore"
	"pollux/node"
	"pollux/node/api"
)

// gated is a node that answers so many requests for blocks, and leaves those after
// them waiting, and those for one block, if that is set.
type gated struct {
	api.Service
	left atomic.Int64
	last atomic.Value  // string
	held chan struct{} // gets a value when one is left waiting
}

func (g *gated) Block(ctx context.Context, c cid.Cid, timeout time.Duration) (blockstore.Block, error) {
	if g.left.Add(-1) < 0 || c.String() == g.last.Load() {
		select {
		case g.held <- struct{}{}:
		default:
		}
		<-ctx.Done()
		return blockstore.Block{}, ctx.Err()
	}
	return g.Service.Block(ctx, c, timeout)
}

// serveGated answers for the repository, as its daemon does, until the test ends.
func serveGated(t *testing.T, repo string) *gated {
	t.Helper()
	cfg, err := node.LoadConfig(filepath.Join(repo, "config.toml"), func(name string) (string, bool) {
		for _, v := range testEnv {
			if value, ok := strings.CutPrefix(v, name+"="); ok {
				return value, true
			}
		}
		return "", false
	})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	n, err := node.Open(t.Context(), repo, cfg, log)
	if err != nil {
		t.Fatal(err)
	}
	l, err := api.Listen(filepath.Join(repo, api.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	g := &gated{Service: n, held: make(chan struct{}, 1)}
	srv := api.NewServer(g, log)
	go srv.Serve(l)
	t.Cleanup(func() {
		srv.Close()
		n.Close()
	})
	return g
}

// wholeFiles returns the files below dir that are as large as those of the same name in
// want, and how many bytes there are in all.
func wholeFiles(t *testing.T, dir string, want map[string]string) (whole map[string]fs.FileInfo, size int64) {
	t.Helper()
	whole = make(map[string]fs.FileInfo)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		size += info.Size()
		if content, ok := want[filepath.ToSlash(name)]; ok && info.Size() == int64(len(content)) {
			whole[name] = info
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return whole, size
}

// A get that is killed or interrupted goes on where it stopped: files that were whole
// are not written again, and a large one is written on. While it runs, no other writes
// to the same place.
func TestGetResume(t *testing.T) {
	site := filepath.Join(t.TempDir(), "site")
	writeSite(t, site)
	repo := filepath.Join(t.TempDir(), "repo")
	pollux := func(args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command("pollux", append([]string{"--repo", repo}, args...)...)
		cmd.Env = append(os.Environ(), testEnv...)
		stderr := new(bytes.Buffer)
		cmd.Stderr = stderr
		return cmd, stderr
	}
	add, stderr := pollux("-q", "add", site)
	out, err := add.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	root := strings.TrimSpace(string(out))
	g := serveGated(t, repo)

	for _, tt := range []struct {
		path   string
		sig    syscall.Signal
		blocks int64 // that it gets
		files  int   // that are whole by then, at least
		bytes  int64
	}{
		{"", syscall.SIGKILL, 600, 300, 0},
		{"", syscall.SIGINT, 600, 300, 0},
		{"/download/large.bin", syscall.SIGKILL, 1 << 30, 0, 3 << 20},
	} {
		t.Run(fmt.Sprint(tt.sig, " ", tt.path), func(t *testing.T) {
			source := filepath.Join(site, filepath.FromSlash(tt.path))
			want := readTree(t, source)
			parent := t.TempDir()
			dest := filepath.Join(parent, "out")
			select {
			case <-g.held: // of the case before
			default:
			}
			g.left.Store(tt.blocks)
			g.last.Store("")
			if len(want) == 1 {
				g.last.Store(blockstore.Sum(cid.Raw, []byte(want["."][3<<20:])).CID().String())
			}
			cmd, stderr := pollux("get", root+tt.path, "-o", dest)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := false
			defer func() {
				if !ended {
					cmd.Process.Kill()
					cmd.Wait()
				}
			}()
			<-g.held
			var staging, tree string
			var whole map[string]fs.FileInfo
			for deadline := time.Now().Add(longest); ; time.Sleep(time.Millisecond) { // files have no events to wait for
				if found, _ := filepath.Glob(filepath.Join(parent, ".pollux-*", "bafy*")); len(found) == 1 {
					tree = found[0]
					staging = filepath.Dir(tree)
					var size int64
					if whole, size = wholeFiles(t, tree, want); len(whole) >= tt.files && size >= tt.bytes {
						break
					}
				}
				if time.Now().After(deadline) {
					t.Fatalf("%d files are whole", len(whole))
				}
			}
			g.left.Store(1 << 30) // for all but what waits already
			g.last.Store("")

			second, said := pollux("get", root+tt.path, "-o", dest)
			if err := second.Run(); second.ProcessState.ExitCode() != exitError ||
				!strings.HasSuffix(said.String(), fmt.Sprintf("%q: another extraction to the same place is under way\n", dest)) {
				t.Errorf("a second get ended with %v, %q", err, said)
			}

			if err := cmd.Process.Signal(tt.sig); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			ended = true
			message := ""
			if tt.sig == syscall.SIGINT {
				message = fmt.Sprintf("pollux: get %s: interrupted; run the same command again to go on, or remove %q\n", root+tt.path, staging)
			}
			if err == nil || stderr.String() != message {
				t.Errorf("ended with %v, %q, want %q", err, stderr, message)
			}
			if _, err := os.Lstat(dest); err == nil {
				t.Error("there is something at the destination")
			}
			whole, size := wholeFiles(t, tree, want)
			t.Logf("%d files were whole of %d entries, with %d bytes in all", len(whole), len(want), size)
			large, err := os.Lstat(tree)
			if err != nil {
				t.Fatal(err)
			}

			again, stderr := pollux("-q", "get", root+tt.path, "-o", dest)
			if err := again.Run(); err != nil {
				t.Fatalf("%v: %s", err, stderr)
			}
			wantSameTree(t, readTree(t, dest), want)
			for name, before := range whole {
				after, err := os.Lstat(filepath.Join(dest, name))
				if err != nil || !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
					t.Errorf("%s was written again: %v", name, err)
				}
			}
			if after, err := os.Lstat(dest); err != nil || !os.SameFile(large, after) {
				t.Errorf("all was made again: %v", err)
			}
			if entries, err := os.ReadDir(parent); len(entries) != 1 || err != nil {
				t.Errorf("there are %v, %v", entries, err)
			}
		})
	}
}
