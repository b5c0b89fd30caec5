package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"pollux/dag"
	"pollux/node/api"
)

// gotten is the result of get as JSON.
type gotten struct {
	api.FetchResult
	Path     string `json:"path"`     // absolute path of what was written
	Files    int    `json:"files"`    // files written
	Dirs     int    `json:"dirs"`     // directories written, the top one included
	Symlinks int    `json:"symlinks"` // symbolic links written
}

func (a *app) getCommand() *cobra.Command {
	var (
		dest    string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "get TARGET[/path]",
		Short: "Fetch a site, or a part of it, and write it to disk",
		Long: `Fetch a site, or a part of it, and write it to disk.

It appears at its place when it is whole. Until then it is in a directory beside
it, .pollux- and a number. After an interruption the same command goes on there.`,
		Args: exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			target, err := api.ParseTarget(args[0])
			if err != nil {
				return err
			}
			toStdout := dest == "-"
			switch {
			case toStdout && a.json:
				return fmt.Errorf("%w: the output is the file; for JSON, name a path with -o", api.ErrUsage)
			case dest == "":
				dest = path.Base(target.String())
			}
			if dest, err = filepath.Abs(dest); err != nil {
				return err
			}
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			if toStdout {
				return a.cat(ctx, svc, target, timeout)
			}
			fetched, err := a.fetch(ctx, svc, target, timeout)
			if err != nil {
				return err
			}
			root, err := cid.Decode(fetched.CID)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
				return err
			}
			res, err := a.extract(ctx, blocks{svc, timeout}, root, dest)
			var unfinished *dag.UnfinishedError
			switch {
			case errors.As(err, &unfinished):
				if ctx.Err() != nil && errors.Is(err, context.Canceled) {
					err = errors.New("interrupted")
				}
				return fmt.Errorf("%w; run the same command again to go on, or remove %q", err, unfinished.Kept)
			case errors.Is(err, fs.ErrExist):
				return fmt.Errorf("%w; choose another place with -o", err)
			case err != nil:
				return err
			case a.json:
				return a.printJSON(gotten{fetched, dest, res.Files, res.Dirs, res.Symlinks})
			case a.quiet:
				return nil
			default:
				return a.printf("Wrote %s to %s\n", count(int64(res.Files), "file", "files"), printable(dest))
			}
		}),
	}
	cmd.Flags().StringVarP(&dest, "output", "o", "", "write to `path`, or a file to standard output if that is - (default the last part of the target)")
	timeoutFlag(cmd, &timeout)
	return cmd
}

// extract writes the tree below root to dest, and shows progress.
func (a *app) extract(ctx context.Context, get dag.Getter, root cid.Cid, dest string) (dag.ExtractResult, error) {
	show, done := a.progress()
	defer done()
	var opts dag.ExtractOptions
	if show != nil {
		opts.Progress = func(p dag.Progress) {
			show(api.Progress{Phase: "writing", Bytes: p.Bytes, TotalBytes: p.TotalBytes, Files: p.Files})
		}
	}
	return dag.Extract(ctx, get, root, dest, opts)
}
