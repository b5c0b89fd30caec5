package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"pollux/node"
	"pollux/node/api"
)

// app is what the commands share: the global flags and where to write.
type app struct {
	repo    string // absolute once a command runs
	json    bool
	quiet   bool
	noColor bool

	stdout, stderr io.Writer
	started        bool // the command line was accepted and a command runs
}

func (a *app) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "pollux",
		Short: "Mirror websites between equals",
		Long: `Pollux mirrors websites between equals: every node that follows a site holds
it whole, serves it, and passes it on.

  pollux daemon ./public       seed a folder and serve it
  pollux follow CID            mirror it on another machine`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				return fmt.Errorf("unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
			}
			return fmt.Errorf("unknown command %q", args[0])
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := refuseEmpty(cmd, args); err != nil {
				return err
			}
			a.started = true
			if a.repo == "" {
				a.repo = defaultRepo()
			}
			var err error
			a.repo, err = filepath.Abs(a.repo)
			return err
		},
		SuggestionsMinimumDistance: 2,
		CompletionOptions:          cobra.CompletionOptions{DisableDefaultCmd: true}, // ours refuses unknown shells
	}
	flags := root.PersistentFlags()
	flags.StringVar(&a.repo, "repo", "", "repository `directory` (default $POLLUX_REPO, else $XDG_DATA_HOME/pollux)")
	flags.BoolVar(&a.json, "json", false, "print results as JSON, one object a line")
	flags.BoolVarP(&a.quiet, "quiet", "q", false, "print only the result")
	flags.BoolVar(&a.noColor, "no-color", false, "print without colors")
	root.AddCommand(
		a.daemonCommand(),
		a.addCommand(),
		a.followCommand(),
		a.unfollowCommand(),
		a.mirrorsCommand(),
		a.getCommand(),
		a.catCommand(),
		a.lsCommand(),
		a.exportCommand(),
		a.importCommand(),
		a.checkCommand(),
		a.repairCommand(),
		a.gcCommand(),
		a.statusCommand(),
		a.peersCommand(),
		a.connectCommand(),
		a.idCommand(),
		a.versionCommand(),
		a.completionCommand(),
	)
	return root
}

// defaultRepo is the repository of users who name none.
func defaultRepo() string {
	if repo := os.Getenv("POLLUX_REPO"); repo != "" {
		return repo
	}
	// The XDG specification has relative paths ignored.
	if data := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "pollux")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "." // without a home, the repository lies where the user stands
	}
	return filepath.Join(home, ".local", "share", "pollux")
}

// does makes a RunE that names the command and its first argument in errors.
func does(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd.Context(), args)
		switch {
		case err == nil:
			return nil
		case len(args) == 0:
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		default:
			return fmt.Errorf("%s %s: %w", cmd.Name(), args[0], err)
		}
	}
}

// exactly refuses any other number of arguments than n with the command's usage.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return fmt.Errorf("usage: %s", cmd.UseLine())
		}
		return nil
	}
}

// refuseEmpty refuses an empty argument, or an empty value of a flag. They come from
// variables that a script did not set, and would stand for the current directory, or
// for a default that was not meant.
func refuseEmpty(cmd *cobra.Command, args []string) (err error) {
	if slices.Contains(args, "") {
		return errors.New("an argument is empty")
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if v := f.Value.String(); v == "" || v == "[]" {
			err = fmt.Errorf("the value of --%s is empty", f.Name)
		}
	})
	return err
}

// timeoutFlag adds --timeout to a command that waits for the network.
func timeoutFlag(cmd *cobra.Command, timeout *time.Duration) {
	*timeout = time.Minute
	cmd.Flags().Var((*patience)(timeout), "timeout", "give up when nothing has arrived for this `long`")
}

// patience is a duration above 0, as a flag.
type patience time.Duration

func (p *patience) String() string { return time.Duration(*p).String() }
func (p *patience) Type() string   { return "duration" }

func (p *patience) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return errors.New("not a duration above 0, such as 90s or 5m")
	}
	*p = patience(d)
	return nil
}

// service is an api.Service that its user closes.
type service interface {
	api.Service
	io.Closer
}

// open returns what answers for the repository: its daemon, or else the node, in
// this process.
func (a *app) open(ctx context.Context) (service, error) {
	client, err := a.dial()
	if !errors.Is(err, api.ErrNoDaemon) {
		return client, err
	}
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	n, err := node.Open(ctx, a.repo, cfg, a.logger(cfg))
	// A daemon that is starting has the repository a moment before it listens, and
	// one that is stopping a moment longer.
	for patience := time.Now().Add(startPatience); errors.Is(err, node.ErrInUse) && time.Now().Before(patience); {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(startPatience / 100):
		}
		if client, err := a.dial(); !errors.Is(err, api.ErrNoDaemon) {
			return client, err
		}
		n, err = node.Open(ctx, a.repo, cfg, a.logger(cfg))
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// startPatience is how long a command waits for a daemon to start or stop.
const startPatience = 5 * time.Second

// isDaemon says whether svc is a daemon and not the node in this process.
func isDaemon(svc service) bool {
	_, ok := svc.(*api.Client)
	return ok
}

// dial returns the daemon. It fails with api.ErrNoDaemon if there is none.
func (a *app) dial() (service, error) {
	client, err := api.Dial(filepath.Join(a.repo, api.SocketName))
	if errors.Is(err, api.ErrNoDaemon) {
		return nil, fmt.Errorf("%w on %s; start one with `pollux daemon`", err, a.repo)
	}
	if err != nil {
		return nil, err
	}
	return client, nil
}

// config reads the repository's config file and the environment.
func (a *app) config() (node.Config, error) {
	return node.LoadConfig(filepath.Join(a.repo, "config.toml"), os.LookupEnv)
}

// logger writes what the configuration wants logged to standard error; with
// --quiet, only errors.
func (a *app) logger(cfg node.Config) *slog.Logger {
	level := cfg.LogLevel.Level()
	if a.quiet {
		level = max(level, slog.LevelError)
	}
	handler := slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level})
	// Some libraries log by package log, mostly what their callers are told too.
	log.SetFlags(0)
	log.SetOutput(slog.NewLogLogger(handler, slog.LevelDebug).Writer())
	return slog.New(handler)
}
