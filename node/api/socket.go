package api

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// SocketName is the file name of the socket inside a repository.
const SocketName = "api.sock"

// maxSocketPath is the longest path, in bytes, that every Unix lets a socket be
// bound or connected to: 104 with the final NUL on the BSDs and macOS, 108 on
// Linux.
const maxSocketPath = 103

// Listen makes the socket at path and listens on it. Only the current user can
// connect.
//
// The caller must hold the lock of the repository that path lies in until the
// listener is closed: whatever socket lies at path is taken for one that a dead
// process left, and replaced. Closing the listener removes the socket.
func Listen(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("listen on %s: it exists and is not a socket", path)
	}
	// A socket comes to life with the permissions of the umask, and is connectable
	// at once. So it is bound where nobody else can look, narrowed, and then moved
	// to its place.
	private := path + ".tmp"
	if err := os.RemoveAll(private); err != nil {
		return nil, err
	}
	if err := os.Mkdir(private, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)

	var l *net.UnixListener
	bound := filepath.Join(private, "s")
	err := withShortPath(bound, func(short string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false) // the name it was bound under is gone by then
	if err := errors.Join(os.Chmod(bound, 0o600), os.Rename(bound, path)); err != nil {
		l.Close()
		return nil, err
	}
	return &listener{l, path}, nil
}

// listener is a UnixListener whose socket was moved to path.
type listener struct {
	*net.UnixListener
	path string
}

// Close removes the socket and stops listening. The socket goes first: while it
// can be found, somebody listens.
func (l *listener) Close() error {
	err := os.Remove(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // closed before
	}
	return errors.Join(err, l.UnixListener.Close())
}

// dialSocket connects to the socket at path. It fails with ErrNoDaemon if nobody
// listens there.
func dialSocket(path string) (net.Conn, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoDaemon
	}
	var conn net.Conn
	err := withShortPath(path, func(short string) (err error) {
		conn, err = net.Dial("unix", short)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNoDaemon
	}
	if err != nil {
		return nil, fmt.Errorf("connect to the daemon on %s: %w", path, err)
	}
	return conn, nil
}

// withShortPath calls use with a path to the same file as path that is short
// enough for a socket address. The limit is on the text alone, so a long path is
// reached through a symbolic link to its directory, which goes when use returns.
func withShortPath(path string, use func(short string) error) error {
	if len(path) <= maxSocketPath {
		return use(path)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return err
	}
	tmp := os.TempDir()
	if len(tmp) > maxSocketPath/2 {
		tmp = "/tmp" // TMPDIR may be as deep as the repository
	}
	// Nobody else can write to the new directory, so nobody can turn the link
	// elsewhere.
	private, err := os.MkdirTemp(tmp, "pollux")
	if err != nil {
		return err
	}
	defer os.RemoveAll(private)
	link := filepath.Join(private, "d")
	if err := os.Symlink(dir, link); err != nil {
		return err
	}
	return use(filepath.Join(link, filepath.Base(path)))
}
