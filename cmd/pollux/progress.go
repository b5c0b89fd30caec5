package main

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"pollux/node/api"
)

// progress returns what shows a request's progress on standard error, and what
// removes it again. It shows nothing unless that is a terminal.
func (a *app) progress() (show func(api.Progress), done func()) {
	if a.quiet || !isTerminal(os.Stderr) {
		return nil, func() {}
	}
	p := &progress{w: os.Stderr}
	return p.show, p.done
}

// progress shows one bar a phase, and a spinner while its total is not known.
type progress struct {
	w     io.Writer
	phase string
	total bool                     // the bar has a total
	bar   *progressbar.ProgressBar // nil before the first phase
}

func (p *progress) show(now api.Progress) {
	total := now.TotalBytes > 0
	if total {
		// What was there before would count for the rate, and so for the time that is left.
		now.Bytes -= now.HeldBytes
		now.TotalBytes = max(now.TotalBytes-now.HeldBytes, 1)
		// The bar takes the total for the end, but a total that is still being found
		// out may be reached several times.
		now.Bytes = min(now.Bytes, now.TotalBytes-1)
	}
	if p.bar == nil || now.Phase != p.phase || total != p.total {
		p.done()
		p.phase, p.total = now.Phase, total
		p.bar = newBar(p.w, now)
		return // drawn now, it would show an endless rate
	}
	p.bar.Describe(describe(now))
	if total {
		p.bar.ChangeMax64(now.TotalBytes)
	}
	p.bar.Set64(now.Bytes)
}

func newBar(w io.Writer, p api.Progress) *progressbar.ProgressBar {
	total := int64(-1) // a spinner
	if p.TotalBytes > 0 {
		total = p.TotalBytes
	}
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetDescription(describe(p)),
		progressbar.OptionShowBytes(true),
		progressbar.OptionShowTotalBytes(true),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetWidth(20),
		progressbar.OptionSetTheme(progressbar.ThemeASCII),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetSpinnerChangeInterval(0), // else a goroutine draws it until it is full
		progressbar.OptionClearOnFinish(),
	)
}

func (p *progress) done() {
	if p.bar != nil {
		p.bar.Exit()
		p.bar.Clear()
		p.bar = nil
	}
}

// describe writes what a bar of bytes does not show.
func describe(p api.Progress) string {
	words := []string{p.Phase}
	switch {
	case p.Received > 0: // less than the bytes of the bar, as it comes compressed
		words = append(words, size(p.Received))
	case p.Files > 0:
		words = append(words, count(p.Files, "file", "files"))
	case p.Blocks > 0:
		words = append(words, count(p.Blocks, "block", "blocks"))
	}
	if p.Peers > 0 {
		words = append(words, "from "+count(p.Peers, "peer", "peers"))
	}
	return printable(strings.Join(words, " "))
}
