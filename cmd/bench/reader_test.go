//go:build linux

package main

import (
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var values []time.Duration
	for i := range 100 {
		values = append(values, time.Duration(i+1))
	}
	for _, tt := range []struct{ n, p, want int }{{100, 50, 50}, {100, 95, 95}, {20, 95, 19}, {3, 50, 2}, {1, 95, 1}} {
		if got := percentile(values[:tt.n], tt.p); got != time.Duration(tt.want) {
			t.Errorf("p%d of 1 to %d is %d, want %d", tt.p, tt.n, got, tt.want)
		}
	}
}
