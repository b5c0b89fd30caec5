package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// longest is how long a script waits for what has to come. A daemon's end has
// its own limit.
const longest = time.Minute

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"pollux": main})
}

// TestScripts runs the sessions in testdata/script with the real binary. Besides
// the usual commands they have
//
//	exits CODE COMMAND…   runs a command that must exit with CODE
//	capture VAR           sets VAR to what the last command printed
//	daemon NAME ARG…      runs `pollux --repo NAME daemon ARG…` until the script
//	                      ends and waits until it is ready; sets NAME_peer,
//	                      NAME_addr, NAME_listen (that without the peer),
//	                      NAME_gateway, NAME_hostport (of that), and NAME_root if
//	                      ARG has a directory
//	sigterm NAME          ends that daemon as a service manager does, and checks
//	                      that it ends well within 5 seconds
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, testEnv...)
			env.Values[daemonsKey{}] = daemons{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   cmdExits,
			"capture": cmdCapture,
			"daemon":  cmdDaemon,
			"sigterm": cmdSigterm,
		},
		Deadline:            time.Now().Add(4 * longest), // else a hung script holds up the rest for 10 minutes
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// testEnv keeps the nodes of a script off other networks and fixed ports.
var testEnv = []string{
	"POLLUX_NETWORK=test",
	"POLLUX_BOOTSTRAP=none",
	"POLLUX_LISTEN=/ip4/127.0.0.1/tcp/0",
	"POLLUX_GATEWAY=127.0.0.1:0",
	"POLLUX_MDNS=false",
	"POLLUX_PORT_MAPPING=false",
	"GORACE=atexit_sleep_ms=0", // else each command that a race detector watches takes a second more
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exited with %d, want %s", code, args[0])
	}
}

func cmdCapture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: capture VAR")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// daemons are the daemons that a script runs, by name. A script keeps them under
// daemonsKey.
type (
	daemons    map[string]*process
	daemonsKey struct{}
)

// process is a daemon.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer  // to be read once done is closed
	done   chan struct{} // closed when the process has ended
	err    error         // how it ended; to be read once done is closed
}

func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: daemon NAME ARG…")
	}
	name := args[0]
	p := &process{done: make(chan struct{})}
	p.cmd = exec.Command("pollux", append([]string{"--repo", name, "--json", "daemon"}, args[1:]...)...)
	p.cmd.Dir = ts.MkAbs(".")
	p.cmd.Env = append(os.Environ(), testEnv...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ready := make(chan struct{})
	events := make(map[string]json.RawMessage) // all fields of all events up to ready
	go func() {
		defer close(p.done)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if json.Unmarshal(lines.Bytes(), &events) == nil && string(events["event"]) == `"ready"` {
				close(ready)
				break
			}
		}
		io.Copy(io.Discard, stdout)
		p.err = p.cmd.Wait()
	}()
	ts.Defer(func() {
		p.cmd.Process.Kill()
		<-p.done
		ts.Logf("[daemon %s: %v]\n%s", name, p.err, &p.stderr)
	})
	ts.Value(daemonsKey{}).(daemons)[name] = p

	select {
	case <-ready:
	case <-p.done:
		ts.Fatalf("daemon %s ended before it was ready", name)
	case <-time.After(longest):
		ts.Fatalf("daemon %s was not ready within %v", name, longest)
	}
	var addrs []string
	ts.Check(json.Unmarshal(events["addrs"], &addrs))
	if len(addrs) > 0 {
		ts.Setenv(name+"_addr", addrs[0])
		listen, _, _ := strings.Cut(addrs[0], "/p2p/")
		ts.Setenv(name+"_listen", listen)
	}
	for _, key := range []string{"peer", "gateway", "root"} {
		ts.Setenv(name+"_"+key, strings.Trim(string(events[key]), `"`))
	}
	if _, hostport, ok := strings.Cut(ts.Getenv(name+"_gateway"), "://"); ok {
		ts.Setenv(name+"_hostport", hostport)
	}
}

func cmdSigterm(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: sigterm NAME")
	}
	p := ts.Value(daemonsKey{}).(daemons)[args[0]]
	if p == nil {
		ts.Fatalf("no daemon %s", args[0])
	}
	ts.Check(p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		ts.Fatalf("daemon %s runs on 5 seconds after SIGTERM", args[0])
	}
	if p.err != nil {
		ts.Fatalf("daemon %s: %v", args[0], p.err)
	}
}
