package main

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	"pollux/node/api"
)

func (a *app) importCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE.car",
		Short: "Import a CAR file and keep the sites in it",
		Long: `Import a CAR file, version 1 or 2, and keep the sites that it names as its
roots. Each has to be whole. Of a FILE called - standard input is read.`,
		Args: exactly(1),
		RunE: does(func(ctx context.Context, args []string) error {
			file := os.Stdin
			if args[0] != "-" {
				var err error
				if file, err = os.Open(args[0]); err != nil {
					return err
				}
				defer file.Close()
			}
			info, err := file.Stat()
			if err != nil {
				return err
			}
			svc, err := a.open(ctx)
			if err != nil {
				return err
			}
			defer svc.Close()
			show, done := a.progress()
			if bar := show; bar != nil && info.Mode().IsRegular() {
				show = func(p api.Progress) {
					p.TotalBytes = info.Size()
					bar(p)
				}
			}
			car := interruptible(ctx, file)
			defer car.Close()
			res, err := svc.Import(ctx, car, show)
			done()
			if err != nil {
				return err
			}
			return a.printImported(args[0], res)
		}),
	}
}

func (a *app) printImported(path string, res api.ImportResult) error {
	if a.json {
		return a.printJSON(res)
	}
	if !a.quiet {
		a.printf("Imported %s: %s, %s (%s new)\n", printable(path), count(res.Blocks, "block", "blocks"), size(res.Bytes), size(res.NewBytes))
	}
	for _, root := range res.Roots {
		if !a.quiet {
			root = "  root    " + root
		}
		if err := a.printf("%s\n", root); err != nil {
			return err
		}
	}
	return nil
}

// interruptible returns what r reads, until ctx ends: a Read of a pipe or a terminal
// does not know of ctx. Its user closes it.
func interruptible(ctx context.Context, r io.Reader) io.ReadCloser {
	out, in := io.Pipe()
	go func() {
		_, err := io.Copy(in, r)
		in.CloseWithError(err)
	}()
	context.AfterFunc(ctx, func() { in.CloseWithError(ctx.Err()) })
	return out
}
