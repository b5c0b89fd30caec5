//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netns is a network namespace: interfaces, addresses and sockets apart from
// those of the machine. It has no name and belongs to one thread, so the kernel
// removes it when this program ends, however it ends.
type netns struct {
	calls chan func()
	ended chan struct{}
}

// newNetns makes a namespace whose loopback interface is up. It needs root.
func newNetns() (*netns, error) {
	n := &netns{calls: make(chan func()), ended: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(n.ended)
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		made <- err
		if err != nil {
			return
		}
		for call := range n.calls {
			call()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("make a network namespace (which only root may): %w", err)
	}
	if err := n.ip("link", "set", "lo", "up"); err != nil {
		n.close()
		return nil, err
	}
	return n, nil
}

// do runs f on the namespace's thread. Processes that f starts and sockets that
// it opens, on this goroutine, are in the namespace.
func (n *netns) do(f func() error) error {
	err := make(chan error, 1)
	n.calls <- func() { err <- f() }
	return <-err
}

// ip runs ip(8) in the namespace.
func (n *netns) ip(args ...string) error {
	return n.do(func() error {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
		return nil
	})
}

// close lets go of the namespace. Nothing may call do any more.
func (n *netns) close() {
	close(n.calls)
	<-n.ended
}
