package main

import (
	"bytes"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"pollux/node/api"
)

// inNamespace runs the calling test in a process that may mount without anybody else
// seeing it, and returns true there. Who may not gets a skip, which says so; what
// needs no mount is in tests of its own.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "POLLUX_TEST_NAMESPACE"
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("mounting takes CAP_SYS_ADMIN: %v", err)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: "+t.Name())) {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

// must runs a command of the system.
func must(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// TestReadOnlyPermissions has a repository that its user may read and not write.
func TestReadOnlyPermissions(t *testing.T) {
	quiet(t)
	if os.Geteuid() == 0 {
		// Root may write wherever, but for those that it takes the privilege from.
		pollux, err := exec.LookPath("pollux")
		if err != nil {
			t.Fatal(err)
		}
		bin := t.TempDir()
		script := "#!/bin/sh\nexec setpriv --bounding-set=-dac_override,-dac_read_search '" + pollux + "' \"$@\"\n"
		if err := os.WriteFile(filepath.Join(bin, "pollux"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	}
	for _, key := range []bool{true, false} {
		dir := t.TempDir()
		chmod := func(remove, add fs.FileMode) {
			err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err != nil || !e.IsDir() && !e.Type().IsRegular() {
					return err
				}
				info, err := e.Info()
				if err != nil {
					return err
				}
				return os.Chmod(path, info.Mode().Perm()&^remove|add)
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		thaw := func() { chmod(0, 0o200) }
		t.Cleanup(thaw)
		testReadOnly(t, dir, key, func() { chmod(0o222, 0) }, thaw)
	}
}

// TestReadOnlyFileSystem has a repository on a file system that is mounted read-only.
func TestReadOnlyFileSystem(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	quiet(t)
	for _, key := range []bool{true, false} {
		dir := t.TempDir()
		must(t, "mount", "-t", "tmpfs", "-o", "size=64m", "pollux-test", dir)
		t.Cleanup(func() { must(t, "umount", dir) })
		testReadOnly(t, dir, key,
			func() { must(t, "mount", "-o", "remount,ro", dir) },
			func() { must(t, "mount", "-o", "remount,rw", dir) })
	}
}

// testReadOnly fills a repository in dir, has freeze make dir read-only, and looks at
// what works. key says whether the node has an identity by then.
func testReadOnly(t *testing.T, dir string, key bool, freeze, thaw func()) {
	site, another := filepath.Join(t.TempDir(), "site"), t.TempDir()
	page := filepath.Join(site, "index.html")
	if err := errors.Join(os.MkdirAll(site, 0o755), os.WriteFile(page, []byte("<p>page"), 0o644),
		os.WriteFile(filepath.Join(another, "file"), []byte("not there"), 0o644)); err != nil {
		t.Fatal(err)
	}
	var added api.AddResult
	car := filepath.Join(t.TempDir(), "another.car")
	publisher := newMachine(t, "publisher")
	publisher.run(&added, "add", another)
	publisher.run(new(struct{}), "export", added.Root, "-o", car)
	m := &machine{t: t, name: "m", repo: filepath.Join(dir, "repo")}
	m.run(&added, "add", site)
	unknown := "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
	m.run(new(struct{}), "follow", unknown)
	if key {
		m.start(nil)
		m.stop(syscall.SIGKILL) // leaves its socket, and what it wrote last without an index
	}
	freeze()
	before := contents(t, m.repo)

	reads := func() {
		t.Helper()
		out := t.TempDir()
		if got, err := exec.Command("pollux", "--repo", m.repo, "cat", added.Root+"/index.html").Output(); err != nil || string(got) != "<p>page" {
			t.Errorf("cat: %q, %v", got, err)
		}
		m.run(new(struct{}), "ls", added.Root)
		m.run(new(gotten), "get", added.Root, "-o", filepath.Join(out, "got"))
		wantSameTree(t, readTree(t, filepath.Join(out, "got")), readTree(t, site))
		m.run(new(struct{}), "export", added.Root, "-o", filepath.Join(out, "site.car"))
		m.run(new(api.CheckResult), "check", "--data")
		var st api.Status
		m.run(&st, "status")
		if len(st.Sites) != 2 || (st.Peer != "") != key || !strings.Contains(st.Store.ReadOnly, "repository is read-only") {
			t.Errorf("status %+v", st)
		}
	}
	reads()
	m.wantRefused("repository is read-only", "add", another)
	m.wantRefused("repository is read-only", "import", car)
	m.wantRefused("repository is read-only", "gc")
	m.wantRefused("repository is read-only", "unfollow", added.Root)

	boot := newMachine(t, "boot").start(nil)
	m.start(boot)
	reads() // beside the daemon
	if status, body := m.read(added.Root, ""); status != http.StatusOK || string(body) != "<p>page" {
		t.Errorf("gateway: %d %q", status, body)
	}
	other := newMachine(t, "other").start(boot)
	var followed api.FollowResult
	other.run(&followed, "follow", added.Root, "--wait")
	if followed.Received == 0 {
		t.Errorf("followed %+v", followed)
	}
	m.stop(syscall.SIGTERM)
	if log := m.cmd.Stderr.(*bytes.Buffer).String(); strings.Count(log, "nothing can be stored, only served") != 1 || strings.Count(log, "\n") != 1 {
		t.Errorf("log: %s", log)
	}
	wantSameTree(t, contents(t, m.repo), before)

	thaw()
	m.run(&added, "add", another)
}

// TestFailingDisk has a file system refuse to be changed under a running daemon: for a
// while, and then for good, as ext4 does when it meets an error.
func TestFailingDisk(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	quiet(t)
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	must(t, "truncate", "-s", "64M", image)
	must(t, "mkfs.ext4", "-q", image)
	mount := func() { must(t, "mount", "-o", "loop,errors=remount-ro", image, dir) }
	mount()
	t.Cleanup(func() { must(t, "umount", dir) })

	files := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(files, name)
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	m := &machine{t: t, name: "m", repo: filepath.Join(dir, "repo")}
	m.start(nil)
	var first, second, third api.AddResult
	m.run(&first, "add", write("first"))
	served := func(added api.AddResult, name string) {
		t.Helper()
		if status, body := m.read(added.Root, ""); status != http.StatusOK || string(body) != name {
			t.Errorf("gateway: %d %q, want %q", status, body, name)
		}
		if got, err := exec.Command("pollux", "--repo", m.repo, "cat", added.Root).Output(); err != nil || string(got) != name {
			t.Errorf("cat: %q, %v; want %q", got, err, name)
		}
	}

	immutable(t, m.repo, true)
	m.wantRefused("operation not permitted", "add", write("second"))
	served(first, "first")
	immutable(t, m.repo, false)
	m.run(&second, "add", write("second"))
	m.status("it can be written to", func(s api.Status) bool { return s.Store.ReadOnly == "" })
	served(second, "second")

	trigger, err := filepath.Glob("/sys/fs/ext4/" + filepath.Base(device(t, dir)) + "/trigger_fs_error")
	if err != nil || len(trigger) != 1 {
		t.Fatalf("no way to an error of the file system: %v %v", trigger, err)
	}
	if err := os.WriteFile(trigger[0], []byte("test"), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m.wantRefused("read-only file system", "add", write("third"))
	}
	served(first, "first")
	served(second, "second")
	other := newMachine(t, "other").start(m)
	other.run(new(api.FollowResult), "follow", first.Root, "--wait")
	m.stop(syscall.SIGKILL)
	m.start(nil)
	served(second, "second")
	m.stop(syscall.SIGTERM)

	must(t, "umount", dir)
	exec.Command("fsck.ext4", "-fp", image).Run() // fails if it had something to mend, too
	mount()
	m.start(nil)
	served(first, "first")
	served(second, "second")
	m.run(&third, "add", write("third"))
	served(third, "third")
	m.stop(syscall.SIGTERM)
}

// device returns what is mounted at dir.
func device(t *testing.T, dir string) string {
	t.Helper()
	out, err := exec.Command("findmnt", "-no", "SOURCE", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// immutable sets or clears the attribute of ext4 by which nobody can change any file or
// directory in dir.
func immutable(t *testing.T, dir string, on bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() && !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err != nil {
			return err
		}
		const immutableFlag = 0x10 // FS_IMMUTABLE_FL
		flags &^= immutableFlag
		if on {
			flags |= immutableFlag
		}
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
	})
	if err != nil {
		t.Fatal(err)
	}
}
