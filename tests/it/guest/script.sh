uname -r >/result/kernel
