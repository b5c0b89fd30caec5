package api

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSocket(t *testing.T) {
	for _, tt := range []struct{ name, dir string }{
		{"short path", "repo"},
		{"path longer than a socket address", strings.Repeat("a deep folder/", 20)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), tt.dir)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, SocketName)
			l, err := Listen(path)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if info, err := os.Lstat(path); err != nil || info.Mode() != fs.ModeSocket|0o600 {
				t.Errorf("socket has mode %v, error %v", info.Mode(), err)
			}

			accepted := make(chan error, 1)
			go func() {
				conn, err := l.Accept()
				if err == nil {
					err = conn.Close()
				}
				accepted <- err
			}()
			conn, err := dialSocket(path)
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			if err := <-accepted; err != nil {
				t.Fatal(err)
			}

			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if left, _ := os.ReadDir(dir); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := dialSocket(path); !errors.Is(err, ErrNoDaemon) {
				t.Errorf("after Close: got %v, want ErrNoDaemon", err)
			}
		})
	}
}

// A process that died leaves its socket, and perhaps one that it had not moved
// to its place yet.
func TestSocketStale(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, SocketName)
	if err := os.Mkdir(path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, filepath.Join(path+".tmp", "s")} {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
	}

	if _, err := Dial(path); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("before: got %v, want ErrNoDaemon", err)
	}
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

func TestListenRefusesOtherFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), SocketName)
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("got %v", err)
	}
	if data, _ := os.ReadFile(path); string(data) != "precious" {
		t.Error("the file was replaced")
	}
}
