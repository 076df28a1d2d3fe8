package main

import "syscall"

// processAttributes makes the kernel kill the command if lbproxy is killed: nothing else would stop it.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
