//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// process is a program that runs, and leads a process group.
type process struct {
	cmd    *exec.Cmd
	stderr strings.Builder // to be read once done is closed
	done   chan struct{}   // closed when it has ended
	err    error           // how it ended; to be read once done is closed
}

// begin starts a program on the machine. Standard output goes to out.
func (m *machine) begin(out io.Writer, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = out, &p.stderr
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "POLLUX_") })
	p.cmd.Env = append(env, "POLLUX_MDNS=false", "POLLUX_PORT_MAPPING=false")
	// The kernel kills it if this program dies and cannot.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.WaitDelay = time.Second
	if err := m.ns.do(p.cmd.Start); err != nil {
		return nil, err
	}
	m.world.mu.Lock()
	m.world.processes = append(m.world.processes, p)
	m.world.mu.Unlock()
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// exec runs a program on the machine to its end, and returns what it printed.
func (m *machine) exec(ctx context.Context, name string, args ...string) (string, error) {
	var out strings.Builder
	p, err := m.begin(&out, name, args...)
	if err != nil {
		return "", err
	}
	select {
	case <-ctx.Done():
		return "", fmt.Errorf("%s: %s: %w", m.name, filepath.Base(name), context.Cause(ctx))
	case <-p.done:
	}
	if p.err != nil {
		return "", fmt.Errorf("%s: %s: %w: %s", m.name, filepath.Base(name), p.err, lastLine(p.stderr.String()))
	}
	return out.String(), nil
}

// pollux runs a command of the program and decodes the JSON that it prints.
func (m *machine) pollux(ctx context.Context, into any, args ...string) error {
	out, err := m.exec(ctx, m.world.bin, append([]string{"--repo", m.repo, "--json"}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// serve starts a server on the machine and returns when it has printed a line that
// is says yes to.
func (m *machine) serve(ctx context.Context, is func(line string) bool, name string, args ...string) (*process, error) {
	r, out := io.Pipe()
	p, err := m.begin(out, name, args...)
	if err != nil {
		return nil, err
	}
	up := make(chan struct{})
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if is(lines.Text()) {
				close(up)
				break
			}
		}
		io.Copy(io.Discard, r)
	}()
	go func() {
		<-p.done
		out.Close()
	}()
	select {
	case <-up:
		return p, nil
	case <-p.done:
		return nil, fmt.Errorf("%s: %s ended before it was ready: %v: %s", m.name, filepath.Base(name), p.err, lastLine(p.stderr.String()))
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: waiting for %s to be ready: %w", m.name, filepath.Base(name), context.Cause(ctx))
	}
}

// lastLine is the line of a log that most likely says why a program ended.
func lastLine(log string) string {
	log = strings.TrimSpace(log)
	return log[strings.LastIndexByte(log, '\n')+1:]
}
