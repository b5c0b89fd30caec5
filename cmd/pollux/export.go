package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"pollux/dag"
	"pollux/node/api"
)

// exported is the result of export as JSON.
type exported struct {
	Root   string `json:"root"`    // CID that the CAR names as its root
	Blocks int64  `json:"blocks"`  // blocks in the CAR
	Bytes  int64  `json:"bytes"`   // bytes of those blocks
	TookMS int64  `json:"took_ms"` // milliseconds
}

func (a *app) exportCommand() *cobra.Command {
	var (
		dest    string
		timeout time.Duration
	)
	cmd := &cobra.Command{
		Use:   "export TARGET[/path]",
		Short: "Write a site, or a part of it, to a CAR file",
		Args:  exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			start := time.Now()
			if dest == "-" {
				dest = ""
			}
			target, err := api.ParseTarget(args[0])
			switch {
			case err != nil:
				return err
			case dest == "" && isTerminal(os.Stdout):
				return fmt.Errorf("%w: a CAR is not for a terminal; name a file with -o, or redirect the output", api.ErrUsage)
			case dest == "" && a.json:
				return fmt.Errorf("%w: the output is the CAR; for JSON, name a file with -o", api.ErrUsage)
			case dest != "":
				if err := checkFree(dest); err != nil {
					return err
				}
			}
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			fetched, err := a.fetch(ctx, svc, target, timeout)
			if err != nil {
				return err
			}
			root, err := cid.Decode(fetched.CID)
			if err != nil {
				return err
			}
			write := func(w io.Writer) error {
				return a.writeCAR(ctx, blocks{svc, timeout}, root, w, fetched.Bytes)
			}
			if dest == "" {
				return write(a.stdout)
			}
			err = writeFile(dest, write)
			switch {
			case err != nil:
				return err
			case a.json:
				return a.printJSON(exported{fetched.CID, fetched.Blocks, fetched.Bytes, time.Since(start).Milliseconds()})
			case a.quiet:
				return nil
			default:
				return a.printf("Wrote %s, %s to %s\n", count(fetched.Blocks, "block", "blocks"), size(fetched.Bytes), printable(dest))
			}
		}),
	}
	cmd.Flags().StringVarP(&dest, "output", "o", "", "write to `file` (default -, standard output)")
	timeoutFlag(cmd, &timeout)
	return cmd
}

// writeCAR writes the DAG below root to w, and shows progress. total is about how
// many bytes that is.
func (a *app) writeCAR(ctx context.Context, get dag.Getter, root cid.Cid, w io.Writer, total int64) error {
	show, done := a.progress()
	defer done()
	if show != nil {
		w = &shownWriter{w: w, show: show, total: total}
	}
	return dag.WriteCAR(ctx, get, root, w)
}

// shownWriter shows how much was written.
type shownWriter struct {
	w              io.Writer
	show           func(api.Progress)
	written, total int64
}

func (s *shownWriter) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.written += int64(n)
	s.show(api.Progress{Phase: "exporting", Bytes: s.written, TotalBytes: s.total})
	return n, err
}

// writeFile makes the file at path, which must not exist. It appears there at once
// when write has written all of it and it is durable: it is written under a temporary
// name beside path, which a writeFile that fails removes.
func writeFile(path string, write func(io.Writer) error) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf(".pollux-%016x", rand.Uint64())), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := checkFree(path); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// checkFree fails if something lies at path.
func checkFree(path string) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%q: %w; choose another place with -o", path, fs.ErrExist)
	}
	return err
}
