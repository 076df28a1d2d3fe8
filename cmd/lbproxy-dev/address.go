package main

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lbproxy/lbproxy/internal/portowner"
)

const anyFree = "127.0.0.1:0"

// An address is a flag for where to listen. A default that is taken is replaced by a free address; a chosen one is an
// error.
type address struct {
	flag   string
	value  string // host:port
	chosen bool
}

func (a *address) add(cmd *cobra.Command, flag, value, usage string) {
	a.flag = flag
	cmd.Flags().StringVar(&a.value, flag, value, usage+"; any free port if that is taken")
}

// complete records whether the flag was given. With anywhere, an address that was not given becomes any free port.
func (a *address) complete(given func(flag string) bool, anywhere bool) {
	a.chosen = given(a.flag)
	if !a.chosen && anywhere {
		a.value = anyFree
	}
}

func (a address) validate() error {
	_, port, err := net.SplitHostPort(a.value)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("--%s: %q is not host:port; write it like %s", a.flag, a.value, anyFree)
	}
	return nil
}

// distinct reports addresses that are the same.
func distinct(all ...*address) error {
	var errs []error
	for i, a := range all {
		for _, b := range all[:i] {
			if a.value == b.value && !strings.HasSuffix(a.value, ":0") {
				errs = append(errs, fmt.Errorf("--%s: %s is taken by --%s already; choose another", a.flag, a.value, b.flag))
			}
		}
	}
	return errors.Join(errs...)
}

// next is the address n ports higher, which must be valid.
func (a address) next(n int) address {
	host, text, _ := net.SplitHostPort(a.value)
	if port, _ := strconv.Atoi(text); port > 0 {
		a.value = net.JoinHostPort(host, strconv.Itoa(port+n))
	}
	return a
}

// listen listens at the address, or at a free one instead.
func (a address) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", a.value)
	if err != nil && !a.chosen && errors.Is(err, syscall.EADDRINUSE) {
		return net.Listen("tcp", anyFree)
	}
	return l, a.explain(err)
}

// orFree is the address for something that will listen there itself, or a free one instead.
func (a address) orFree() string {
	if a.chosen {
		return a.value
	}
	l, err := net.Listen("tcp", a.value)
	if err != nil {
		return anyFree
	}
	l.Close()
	return a.value
}

// explain adds who has taken the address, if that is the error, and what helps.
func (a address) explain(err error) error { return a.advise(portowner.Explain(err, a.value)) }

func (a address) advise(err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err
	}
	return fmt.Errorf("--%s: %w; stop that, or choose another address, such as %s for any that is free", a.flag, err, anyFree)
}
