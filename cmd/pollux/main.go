// Command pollux mirrors websites between equals: every node that follows a site
// holds it whole, serves it, and passes it on.
//
// The command is the face of package node and holds no logic: flags, progress,
// output and exit codes. Each subcommand has a file, and one path through it:
// open gives it an api.Service, which is the daemon if one runs on the repository
// and the node in process if not.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"pollux/node/api"
)

// Exit codes, which scripts rely on.
const (
	exitError       = 1
	exitUsage       = 2
	exitQuota       = 4
	exitUnreachable = 5
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go keepHeapSmall(ctx)
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:]))
}

// run runs one command and returns its exit code.
func run(ctx context.Context, args []string) int {
	a := &app{stdout: os.Stdout, stderr: os.Stderr}
	root := a.rootCommand()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !a.started { // cobra refused the command line
		err = fmt.Errorf("%w (see `%s --help`)", err, cmd.CommandPath())
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(a.stderr, "%s %s\n", a.paint(os.Stderr, red, "pollux:"), oneLine(err.Error()))
	switch {
	case !a.started, errors.Is(err, api.ErrUsage):
		return exitUsage
	case errors.Is(err, api.ErrQuota):
		return exitQuota
	case errors.Is(err, api.ErrUnreachable):
		return exitUnreachable
	default:
		return exitError
	}
}

// oneLine makes an error's text safe for a terminal: what peers, files and users
// named may be in it.
func oneLine(s string) string {
	return printable(strings.ReplaceAll(strings.TrimSpace(s), "\n", "; "))
}
